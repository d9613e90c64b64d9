"""The model with the weights that plans have, for NumPy in float64."""

from __future__ import annotations

import numpy as np

from tests.reference.weights import Float64, Weights
from trtcoder.calib.quantizers.rounding import round_to_nearest
from trtcoder.calib.storage.blocks import dequantize
from trtcoder.calib.storage.scheme import Scheme

SCHEME = Scheme(4, 128, positive_scales=True)
# float16 has 11 bits, so a rounding is 5e-4 off at most; a layer has some ten of them in a row, of
# which most cancel. Experts of the grouped kind count 16 times.
TOLERANCE = 5e-3


class Rounded(Weights):
    """A checkpoint's tensors, with the modules that are stored as int4 rounded to it."""

    def __getitem__(self, name: str) -> Float64:
        values = super().__getitem__(name)
        if "_proj" not in name or "kv_b_proj" in name:
            return values
        stored, _ = round_to_nearest(values.astype(np.float32), SCHEME, name)
        return dequantize(stored, SCHEME, values.shape[1]).astype(np.float64)
