"""Graphs of one operator with its surroundings, and how they are run on a device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

# NumPy's types by ONNX's numbers.
TYPES: dict[int, Any] = {
    1: np.float32,
    3: np.int8,
    6: np.int32,
    10: np.float16,
    16: ml_dtypes.bfloat16,
    17: ml_dtypes.float8_e4m3fn,
}
_NUMBERS = {np.dtype(dtype): number for number, dtype in TYPES.items()}
# Inputs that stay in the CPU's memory.
_ON_HOST = ("attention_metadata",)


class OneNode:
    """A graph of the folder, opened on a device; its weights are what `fill` wrote."""

    def __init__(self, graph: Path, device: str) -> None:
        import onnxruntime

        from trtcoder.runtime.engine import cuda_device

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            providers = cuda_device.configure(onnxruntime, options)
        self._device = device
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, tuple[tuple[int, ...], Any]],
        in_place: Mapping[str, str] = {},
    ) -> dict[str, NDArray[Any]]:
        """Return outputs, whose shapes and types are given.

        ``in_place`` says which output is written to the memory of which input.
        """
        if self._device == "cpu":
            found = self._session.run(list(outputs), dict(feeds))
            return dict(zip(outputs, found, strict=True))
        return self._run_on_cuda(feeds, outputs, in_place)

    def _run_on_cuda(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, tuple[tuple[int, ...], Any]],
        in_place: Mapping[str, str],
    ) -> dict[str, NDArray[Any]]:
        import onnxruntime

        from trtcoder.runtime.engine.cuda_memory import CudaMemory

        memory, io = CudaMemory(), self._session.io_binding()

        def reserve(shape: tuple[int, ...], dtype: Any) -> Any:
            number = _NUMBERS[np.dtype(dtype)]
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, number, "cuda", 0)

        given: dict[str, Any] = {}
        for name, array in feeds.items():
            if name in _ON_HOST:
                io.bind_cpu_input(name, array)
                continue
            given[name] = reserve(array.shape, array.dtype)
            memory.write(given[name].data_ptr(), np.ascontiguousarray(array).tobytes())
            io.bind_ortvalue_input(name, given[name])
        made = {}
        for name, (shape, dtype) in outputs.items():
            made[name] = given[in_place[name]] if name in in_place else reserve(shape, dtype)
            io.bind_ortvalue_output(name, made[name])
        self._session.run_with_iobinding(io)
        found = {}
        for name, (shape, dtype) in outputs.items():
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            data = memory.read(made[name].data_ptr(), nbytes)
            found[name] = np.frombuffer(data, dtype).reshape(shape)
        return found


def fill(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a graph's weights to where `tests.gpu.graphs` says that they are."""
    offsets = json.loads((folder / "offsets.json").read_text())
    with (folder / "weights.data").open("wb") as file:
        for name, array in arrays.items():
            file.seek(offsets[name])
            file.write(np.ascontiguousarray(array).tobytes())


def error_of(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the largest difference, over the largest value."""
    return float(np.abs(found.astype(np.float64) - wanted).max() / np.abs(wanted).max())
