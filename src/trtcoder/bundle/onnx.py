"""What the manifest of an engine for the target ``onnx`` says beside what every engine's says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TARGET = "onnx"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Bytes of a cache's value. uint8 is the bits of float8, where operators have no such type.
CACHE_DTYPES = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "uint8": 1,
    "float8e4m3fn": 1,
}


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """One cache input: [rows, width] of ``dtype``, updated in place through ``NAME.out``.

    A graph for CUDA has [blocks, rows of a block, 1, width], which is the same memory.
    """

    name: str
    dtype: str
    width: int

    @property
    def row_nbytes(self) -> int:
        """Bytes of a row."""
        return self.width * CACHE_DTYPES[self.dtype]

    @property
    def onnx_type(self) -> str:
        """The type as ONNX Runtime names it."""
        return f"tensor({'float' if self.dtype == 'float32' else self.dtype})"


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

    @property
    def package(self) -> str:
        """The package of ONNX Runtime that has the provider."""
        return "onnxruntime-gpu" if self.provider == CUDA else "onnxruntime"


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
    """The graph, and what runs it.

    Attributes:
        kernels: runs instead of it where our kernels do.
        twin: of a graph for CUDA, the file of the graph for the CPU by which its values are
            verified: the same weights, the inputs of engines for the CPU, float32 caches.
    """

    graph: GraphInfo
    requires: Requires
    kernels: KernelGraph | None = None
    twin: str | None = None

    def problems(self) -> Iterator[str]:
        """Return where they contradict themselves."""
        graph = self.graph
        for name, value in (
            ("cache_block", graph.cache_block),
            *((f"caches: {cache.name}: width", cache.width) for cache in graph.caches),
        ):
            if value < 1:
                yield f"onnx.graph.{name} is {value}, expected at least 1"
        if (self.requires.provider == CUDA) != (self.twin is not None):
            yield f"onnx.twin is {self.twin!r}, for {self.requires.provider}"
        if not graph.caches:
            yield "onnx.graph.caches is empty"
        if len({cache.name for cache in graph.caches}) != len(graph.caches):
            yield "onnx.graph.caches names a cache twice"
        for cache in graph.caches:
            if cache.dtype not in CACHE_DTYPES:
                yield f"onnx.graph.caches: {cache.name} has unknown type {cache.dtype!r}"
