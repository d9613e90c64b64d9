"""What the manifest of an engine for the target ``onnx`` says beside what every engine's says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TARGET = "onnx"
# uint8 is the bits of float8.
CACHE_DTYPES = ("float32", "int8", "uint8")


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """One cache input: [rows, width] of ``dtype``, updated in place through ``NAME.out``."""

    name: str
    dtype: str
    width: int


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """The graph's file, its caches, and the number of cache rows (tokens) in a block."""

    file: str
    cache_block: int
    caches: tuple[CacheInfo, ...]


@dataclass(frozen=True, slots=True)
class Requires:
    """The ONNX Runtime release (major.minor) and execution provider that the graph needs."""

    onnxruntime: str
    provider: str


@dataclass(frozen=True, slots=True)
class KernelGraph:
    """A second graph over the same weights, in our own operators (`trtcoder.plugins`).

    Attributes:
        file: its file; inputs, outputs and caches are the first one's.
        operators: the revision of the operators that it is made of.
        whole: whether they make every product, so that ONNX Runtime's threads have nothing to do.
        products: whether they make any product with weights in panels, or attend only.
    """

    file: str
    operators: int
    whole: bool
    products: bool = True


@dataclass(frozen=True, slots=True)
class OnnxParts:
    """The graph, and what runs it; ``kernels`` runs instead of it where our kernels do."""

    graph: GraphInfo
    requires: Requires
    kernels: KernelGraph | None = None

    def problems(self) -> Iterator[str]:
        """Return where they contradict themselves."""
        graph = self.graph
        for name, value in (
            ("cache_block", graph.cache_block),
            *((f"caches: {cache.name}: width", cache.width) for cache in graph.caches),
        ):
            if value < 1:
                yield f"onnx.graph.{name} is {value}, expected at least 1"
        if not graph.caches:
            yield "onnx.graph.caches is empty"
        if len({cache.name for cache in graph.caches}) != len(graph.caches):
            yield "onnx.graph.caches names a cache twice"
        for cache in graph.caches:
            if cache.dtype not in CACHE_DTYPES:
                yield f"onnx.graph.caches: {cache.name} has unknown type {cache.dtype!r}"
