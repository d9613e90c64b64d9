"""Plans' graphs on ONNX Runtime's CPU, in the place of a GPU with the plans themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from trtcoder.bundle.compiled import CompiledParts
from trtcoder.runtime.engine.slots.device import Floats, StepInputs


class GraphPlans:
    """Runs the graphs that plans are compiled from, as `GpuPlans` runs the plans.

    Attributes:
        caches: float16 ``[slots, 1, rows, width]`` of each layer.
    """

    def __init__(self, folder: Path, parts: CompiledParts, layers: int, width: int) -> None:
        self._parts = parts
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # a cache that is copied is no matter here
        # Otherwise activations would be rounded to int8 in front of int4 weights.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._sessions = [
            onnxruntime.InferenceSession(str(folder / plan.graph), options) for plan in parts.plans
        ]
        shape = (parts.slots, 1, parts.context + 1, width)
        self.caches = [np.zeros(shape, np.float16) for _ in range(layers)]

    def run_layers(self, inputs: StepInputs, slots: tuple[int, int]) -> Floats:
        slots_length = inputs.places.shape
        assert slots_length[0] == slots[1] - slots[0]
        assert slots_length[1] == 1 or slots_length == (1, slots_length[1])
        assert slots_length[1] <= self._parts.chunk
        hidden = inputs.hidden
        for info, session in zip(self._parts.plans, self._sessions, strict=True):
            if info.layers is None:
                continue
            feeds = {
                "hidden": hidden,
                "places": inputs.places,
                "window": inputs.window,
                "cos": inputs.cos,
                "sin": inputs.sin,
            }
            layers = range(*info.layers)
            feeds |= {f"cache.{n}": self.caches[n][slice(*slots)] for n in layers}
            hidden, *caches = session.run(None, feeds)
            for layer, cache in zip(layers, caches, strict=True):
                self.caches[layer][slice(*slots)] = cache
        return hidden

    def run_head(self, hidden: Floats) -> Floats:
        assert len(hidden) <= self._parts.slots
        (logits,) = self._sessions[-1].run(None, {"hidden": hidden})
        return np.asarray(logits)

    def copy(self, source: int, target: int, rows: int) -> None:
        for cache in self.caches:
            cache[target, 0, :rows] = cache[source, 0, :rows]

    def read(self, slot: int) -> bytes:
        return b"".join(cache[slot].tobytes() for cache in self.caches)

    def write(self, slot: int, data: bytes) -> bool:
        parts = len(data) // len(self.caches)
        if parts != self.caches[0][slot].nbytes:
            return False
        for index, cache in enumerate(self.caches):
            part = np.frombuffer(data, np.float16, parts // 2, index * parts)
            cache[slot] = part.reshape(cache[slot].shape)
        return True

    def clear(self, slot: int, row: int) -> None:
        for cache in self.caches:
            cache[slot, 0, row] = 0
