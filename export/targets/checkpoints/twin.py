"""A quantized checkpoint read back: the values that its files stand for, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.storage import nvfp4
from trtcoder.calib.storage.blocks import unpack
from trtcoder.calib.storage.float8 import Float8Matrix, dequantize
from trtcoder.checkpoint.reader import widen
from trtcoder.checkpoint.shard import VIEWS, Rows, Stored
from trtcoder.checkpoint.side_files import read_object
from trtcoder.checkpoint.weight_files import find_weights
from trtcoder.errors import CheckpointError
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Twin:
    """The dequantized twin of a quantized checkpoint; open one with `Twin.open`."""

    folder: Path
    config: DeepseekV2Config
    quantization: dict[str, Any]
    tensors: dict[str, Stored]

    @classmethod
    def open(cls, folder: Path) -> Twin:
        """Map the shards; no tensor is read.

        Raises:
            CheckpointError: a file is missing or damaged, or it is not quantized.
            ConfigError: config.json is not one of DeepSeek-V2.
        """
        data = read_object(folder / "config.json")
        quantization = data.pop("quantization_config", None)
        if not isinstance(quantization, dict):
            raise CheckpointError(f"{folder}/config.json: has no quantization_config")
        config = DeepseekV2Config.from_dict(data, str(folder / "config.json"))
        return cls(folder, config, quantization, find_weights(folder, tuple(VIEWS)).tensors)

    def read(self, tensor: str, rows: Rows = None) -> Floats:
        """Return a tensor of the unquantized model, or rows of one that is kept, as float32."""
        module = tensor.removesuffix(".weight")
        if f"{module}.weight_packed" in self.tensors:
            return self._packed(module)
        if self.is_nvfp4(module):
            return self._nvfp4(module)
        stored = self._stored(tensor)
        if stored.dtype != "F8_E4M3":
            return widen(stored.read(rows))
        for name in ("weight_scale_inv", "weight_scale"):
            if f"{module}.{name}" in self.tensors:
                scales = np.asarray(self.tensors[f"{module}.{name}"].read(), np.float32)
                scales = scales.reshape(1) if name == "weight_scale" else scales
                return dequantize(Float8Matrix(np.asarray(stored.read(), np.uint8), scales))
        raise CheckpointError(f"{self.folder}: {tensor} is float8 and has no scale beside it")

    def is_quantized(self, module: str) -> bool:
        """Return whether a linear module is stored in fewer bits."""
        weight = self.tensors.get(f"{module}.weight")
        return weight is None or weight.dtype in ("F8_E4M3", "U8")

    def is_float8(self, module: str) -> bool:
        """Return whether a linear module is float8, so that servers round what it multiplies."""
        weight = self.tensors.get(f"{module}.weight")
        return weight is not None and weight.dtype == "F8_E4M3"

    def is_nvfp4(self, module: str) -> bool:
        """Return whether a linear module is NVFP4, as is then what servers multiply it with."""
        return f"{module}.weight_scale_2" in self.tensors

    def input_scale(self, module: str) -> Floats | None:
        """Return what activations of a module are divided by, float32 ``[]``; None if dynamic."""
        stored = self.tensors.get(f"{module}.input_scale")
        return None if stored is None else np.asarray(stored.read(), np.float32)

    def _nvfp4(self, module: str) -> Floats:
        packed, scales, scale = (
            np.asarray(self._stored(f"{module}.{name}").read())
            for name in ("weight", "weight_scale", "weight_scale_2")
        )
        scale = scale.astype(np.float32).reshape(1)
        return nvfp4.dequantize(nvfp4.Nvfp4Matrix(packed, scales.view(np.uint8), scale))

    def _packed(self, module: str) -> Floats:
        """Return ``(code - zero point) * scale``; codes and zero points begin at 0."""
        packed, scale, shape, zeros = (
            self.tensors.get(f"{module}.{name}")
            for name in ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
        )
        if packed is None or scale is None or shape is None:
            raise CheckpointError(f"{self.folder}: {module} has no weight_scale or weight_shape")
        rows, width = (int(size) for size in shape.read())
        codes = unpack(np.ascontiguousarray(packed.read()).view(np.uint8), 4, width)
        scales = widen(scale.read())
        offset = np.full(scales.shape, 8, np.float32)
        if zeros is not None:
            along = np.ascontiguousarray(np.asarray(zeros.read()).T).view(np.uint8)
            offset = unpack(along, 4, rows).T.astype(np.float32)
        values = codes.reshape(rows, scales.shape[1], -1).astype(np.float32)
        values -= offset[..., None]
        values *= scales[..., None]
        return values.reshape(rows, width)

    def _stored(self, tensor: str) -> Stored:
        if tensor not in self.tensors:
            raise CheckpointError(f"{self.folder}: has no tensor {tensor}")
        return self.tensors[tensor]
