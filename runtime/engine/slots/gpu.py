"""Plans on an NVIDIA GPU, through TensorRT-RTX. It has not run on one yet: see docs/targets.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.compiled import CompiledParts
from trtcoder.bundle.folder import Bundle
from trtcoder.errors import EngineError
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.runtime.engine.cuda_device import device_capability, require_gpu
from trtcoder.runtime.engine.cuda_memory import CudaMemory
from trtcoder.runtime.engine.slots.device import Floats, StepInputs
from trtcoder.tensorrt_rtx.libraries import load, require_packages

# Of `Shapes.profiles`: decoding, and a chunk of a prompt.
_DECODE, _PROMPT = 0, 1


class GpuPlans:
    """Plans in a GPU's memory, with their caches (see `PlanDevice`)."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the plans and take the cache's memory.

        Raises:
            DependencyError: a package or the driver is missing.
            EngineError: there is no GPU, it is none that the plans were compiled for, or it has
                too little memory.
        """
        parts = bundle.manifest.compiled
        if parts is None:
            raise EngineError(f"{bundle.folder}: has no compiled plans")
        require_packages()
        require_gpu("an engine for ONNX Runtime's CPU")
        _check_capability(bundle.folder, parts)
        config = DeepseekV2Config.from_dict(bundle.manifest.model.config, str(bundle.folder))
        rtx = load()
        self._memory = CudaMemory()
        self._parts, self._hidden = parts, config.hidden_size
        self._vocab, self._width = config.vocab_size, config.cache_width
        self._row = 2 * self._width
        self._slot = (parts.context + 1) * self._row
        self._caches = [
            self._memory.reserve(parts.slots * self._slot) for _ in range(config.num_hidden_layers)
        ]
        runtime = rtx.Runtime(rtx.Logger(rtx.Logger.ERROR))
        self._runtime = runtime
        self._plans = [
            _Plan(rtx, runtime, bundle.path(info.file), parts.weight_streaming)
            for info in parts.plans
        ]
        scratch = max(plan.scratch for plan in self._plans)
        address = self._memory.reserve(scratch)
        for plan in self._plans:
            plan.use(address, scratch)
        tokens = max(parts.slots, parts.chunk)
        rope = config.qk_rope_head_dim
        self._buffers = {
            "hidden": self._memory.reserve(4 * tokens * self._hidden),
            "made": self._memory.reserve(4 * tokens * self._hidden),
            "places": self._memory.reserve(8 * tokens),
            "window": self._memory.reserve(8 * (parts.context + 1)),
            "cos": self._memory.reserve(2 * tokens * rope),
            "sin": self._memory.reserve(2 * tokens * rope),
            "logits": self._memory.reserve(4 * parts.slots * self._vocab),
        }

    def run_layers(self, inputs: StepInputs, slots: tuple[int, int]) -> Floats:
        """Run all layers over some slots and write their caches; return ``[tokens, H]``."""
        profile = _DECODE if inputs.places.shape[1] == 1 else _PROMPT
        arrays: dict[str, NDArray[Any]] = {
            "hidden": inputs.hidden,
            "places": inputs.places,
            "window": inputs.window,
            "cos": inputs.cos,
            "sin": inputs.sin,
        }
        for name, array in arrays.items():
            self._memory.write(self._buffers[name], np.ascontiguousarray(array).tobytes())
        given, made = "hidden", "made"
        shape = (slots[1] - slots[0], 1, self._parts.context + 1, self._width)
        for info, plan in zip(self._parts.plans, self._plans, strict=True):
            if info.layers is None:
                continue
            first, stop = info.layers
            bound = {name: (array.shape, self._buffers[name]) for name, array in arrays.items()}
            bound["hidden"] = (inputs.hidden.shape, self._buffers[given])
            outputs = {f"layers.{stop - 1}/output": self._buffers[made]}
            for layer in range(first, stop):
                address = self._caches[layer] + slots[0] * self._slot
                bound[f"cache.{layer}"] = (shape, address)
                outputs[f"cache.{layer}.out"] = address
            plan.run(profile, bound, outputs)
            given, made = made, given
        return self._read(self._buffers[given], inputs.hidden.shape)

    def run_head(self, hidden: Floats) -> Floats:
        """Return the logits ``[samples, V]`` of at most as many rows as there are slots."""
        address = self._buffers["hidden"]
        self._memory.write(address, np.ascontiguousarray(hidden).tobytes())
        logits = self._buffers["logits"]
        self._plans[-1].run(_DECODE, {"hidden": (hidden.shape, address)}, {"logits": logits})
        return self._read(logits, (len(hidden), self._vocab))

    def copy(self, source: int, target: int, rows: int) -> None:
        """Copy the first rows of a slot to another one, in every layer."""
        for cache in self._caches:
            self._memory.copy(
                cache + target * self._slot, cache + source * self._slot, rows * self._row
            )

    def read(self, slot: int) -> bytes:
        """Return the rows of a slot, of one layer after another."""
        return b"".join(
            self._memory.read(cache + slot * self._slot, self._slot) for cache in self._caches
        )

    def write(self, slot: int, data: bytes) -> bool:
        """Set the rows of a slot to what `read` returned; False where sizes differ."""
        if len(data) != self._slot * len(self._caches):
            return False
        for index, cache in enumerate(self._caches):
            part = data[index * self._slot : (index + 1) * self._slot]
            self._memory.write(cache + slot * self._slot, part)
        return True

    def clear(self, slot: int, row: int) -> None:
        """Set a row of a slot to zero, in every layer."""
        for cache in self._caches:
            self._memory.clear(cache + slot * self._slot + row * self._row, self._row)

    def _read(self, address: int, shape: tuple[int, ...]) -> Floats:
        data = self._memory.read(address, 4 * int(np.prod(shape)))
        return np.frombuffer(data, np.float32).reshape(shape)


class _Plan:
    """One plan, and a context for each of its profiles."""

    def __init__(self, rtx: Any, runtime: Any, path: Path, weight_streaming: bool) -> None:
        self._path = path
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineError(
                f"{path}: TensorRT-RTX does not load it; the GPU may have too little memory for "
                "it, or the plan is of another release: build the engine again"
            )
        if weight_streaming:
            engine.weight_streaming_budget_v2 = engine.weight_streaming_automatic_budget
        strategy = rtx.ExecutionContextAllocationStrategy.USER_MANAGED
        self._engine = engine
        self._contexts = []
        for profile in range(engine.num_optimization_profiles):
            context = engine.create_execution_context(strategy)
            if context is None or not context.set_optimization_profile_async(profile, 0):
                raise EngineError(f"{path}: TensorRT-RTX makes no context of it")
            self._contexts.append(context)
        self.scratch = int(engine.device_memory_size_v2)

    def use(self, address: int, nbytes: int) -> None:
        """Take memory for activations, which all plans share as they run one after another."""
        for context in self._contexts:
            context.set_device_memory(address, nbytes)

    def run(
        self,
        profile: int,
        inputs: dict[str, tuple[tuple[int, ...], int]],
        outputs: dict[str, int],
    ) -> None:
        """Run it with inputs of the given shapes and addresses."""
        context = self._contexts[profile]
        fits = all(context.set_input_shape(name, shape) for name, (shape, _) in inputs.items())
        addresses = {name: address for name, (_, address) in inputs.items()} | outputs
        fits = fits and all(context.set_tensor_address(*each) for each in addresses.items())
        if not fits or not context.execute_async_v3(0):
            shapes = ", ".join(f"{name} {list(shape)}" for name, (shape, _) in inputs.items())
            raise EngineError(f"{self._path}: TensorRT-RTX fails on {shapes}")


def _check_capability(folder: Path, parts: CompiledParts) -> None:
    found = device_capability()
    if found not in parts.compute_capabilities:
        raise EngineError(
            f"{folder}: {parts.needs()}, and this GPU has {found}; build it with "
            f"--compute-capability {found}"
        )
