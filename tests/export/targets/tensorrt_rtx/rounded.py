"""The model with the values that plans have, for NumPy in float64."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from tests.export.targets.tensorrt_rtx.conftest import AMAX
from tests.reference import NumpyReference
from tests.reference.weights import Float64, Weights
from trtcoder.calib.quantizers.rounding import round_to_nearest
from trtcoder.calib.storage.blocks import dequantize
from trtcoder.calib.storage.scheme import Scheme

SCHEME = Scheme(4, 128, positive_scales=True)
# float16 has 11 bits, so a rounding is 5e-4 off at most; a layer has some ten of them in a row, of
# which most cancel. Experts of the grouped kind count 16 times.
TOLERANCE = 5e-3
# Modules that are one matrix in the graph, and so have one scale in float8.
_FUSED = (
    ("q_proj", "kv_a_proj_with_mqa"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
)


def is_float8(module: str, form: str) -> bool:
    """Whether plans of a form have a module in float8."""
    kept = "_proj" not in module or "kv_b_proj" in module
    return "fp8" in form and not kept and ".experts." not in module


def float8(values: Float64, largest: float) -> Float64:
    """Return values rounded to E4M3 with the least float16 scale that reaches ``largest``."""
    scale = np.float16(largest / 448)
    if float(scale) < largest / 448:
        scale = np.nextafter(scale, np.float16(1))
    levels = np.clip(values / float(scale), -448, 448)
    rounded: Float64 = levels.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * float(scale)
    return rounded


class Rounded(Weights):
    """A checkpoint's tensors, with the modules that are stored as int4 or float8 rounded to it."""

    def __init__(self, folder: Path, form: str = "int4") -> None:
        super().__init__(folder)
        self._form = form

    def __getitem__(self, name: str) -> Float64:
        values = super().__getitem__(name)
        if is_float8(name, self._form):
            return float8(values, self._largest(name))
        if "_proj" not in name or "kv_b_proj" in name:
            return values
        stored, _ = round_to_nearest(values.astype(np.float32), SCHEME, name)
        return dequantize(stored, SCHEME, values.shape[1]).astype(np.float64)

    def _largest(self, name: str) -> float:
        prefix, module, _ = name.rsplit(".", 2)
        fused = {other for pair in _FUSED if module in pair for other in pair} | {module}
        names = [each for each in (f"{prefix}.{other}.weight" for other in fused) if each in self]
        return max(float(np.abs(super(Rounded, self).__getitem__(each)).max()) for each in names)


class RoundedReference(NumpyReference):
    """Computes with rounded weights, and rounds what float8 modules take where plans do."""

    def __init__(self, folder: Path, form: str = "int4") -> None:
        super().__init__(folder, Rounded(folder, form))
        self._form = form

    def _linear(self, x: Float64, name: str) -> Float64:
        if "static" in self._form and is_float8(name, self._form):
            x = float8(x, AMAX)
        return super()._linear(x, name)
