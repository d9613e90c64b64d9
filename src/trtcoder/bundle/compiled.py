"""What the manifest of an engine of compiled plans says beside what every engine's says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TARGET = "tensorrt-rtx"


@dataclass(frozen=True, slots=True)
class PlanInfo:
    """One plan: consecutive layers of the model, or its head.

    Attributes:
        file: the plan.
        graph: the ONNX graph that it was compiled from; its weights lie beside it.
        layers: the first layer and the one behind the last; None for the head.
    """

    file: str
    graph: str
    layers: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class CompiledParts:
    """Plans that run one after another, and what they were compiled for.

    Attributes:
        builder: the packages that compiled them, by name, with their versions.
        compute_capabilities: of the GPUs that they run on, 89 for 8.9.
        slots: answers that are computed at the same time; each has a slot of the cache.
        context: tokens that a slot has room for. Its cache has one row more, which takes what slots
            that rest write.
        chunk: most tokens of a prompt that one step takes.
        weight_streaming: whether weights may stay in the host's memory.
        embedding: the file of the table of embeddings, bfloat16 ``[V, H]``.
        plans: in the order in which they run; the head is the last one.
    """

    builder: dict[str, str]
    compute_capabilities: tuple[int, ...]
    slots: int
    context: int
    chunk: int
    weight_streaming: bool
    embedding: str
    plans: tuple[PlanInfo, ...]

    def needs(self) -> str:
        """Return what runs the plans, in words."""
        gpus = ", ".join(map(str, self.compute_capabilities))
        return f"its plans run on GPUs of compute capability {gpus}, through TensorRT-RTX"

    def problems(self) -> Iterator[str]:
        """Return where they contradict themselves."""
        for name in ("slots", "context", "chunk"):
            if getattr(self, name) < 1:
                yield f"compiled.{name} is {getattr(self, name)}, expected at least 1"
        if not self.compute_capabilities:
            yield "compiled.compute_capabilities is empty"
        layers = [plan.layers for plan in self.plans]
        follow = layers[-1:] == [None]
        end = 0
        for found in layers[:-1]:
            follow = follow and found is not None and end == found[0] < found[1]
            end = 0 if found is None else found[1]
        if not follow:
            yield "compiled.plans are not consecutive layers with the head behind them"
