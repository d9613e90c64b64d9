"""Whether an engine runs on our kernels or on ONNX Runtime's own operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtcoder.bundle.onnx import CPU, CUDA, OnnxParts
from trtcoder.errors import DependencyError, EngineError
from trtcoder.plugins.library import OPERATORS, KernelLibrary, open_library


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs an engine on this machine, in this process.

    Attributes:
        file: the graph's file.
        library: our kernels; None where ONNX Runtime's own operators run it.
        reason: why it is none.
        is_broken: whether there is a library, and it cannot be used.
        whole: whether our kernels make every product.
        products: whether they make any, or attend only.
        provider: of ONNX Runtime, for its own operators; or what else runs the engine.
    """

    file: str
    library: KernelLibrary | None
    reason: str = ""
    is_broken: bool = False
    whole: bool = False
    products: bool = True
    provider: str = CPU

    def __str__(self) -> str:
        if self.library is None and self.provider == CUDA:
            return "ONNX Runtime's own operators on an NVIDIA GPU"
        if self.library is None and self.provider != CPU:
            return f"{self.provider} on an NVIDIA GPU"
        if self.library is None:
            return f"ONNX Runtime's own operators: {self.reason}"
        ours = "trtcoder's kernels" if self.products else "trtcoder's attention"
        rest = "" if self.whole else ", and ONNX Runtime's own operators"
        return f"{ours}, {self.library.isa}{rest}"

    @property
    def versions(self) -> dict[str, str]:
        """What a certificate says beside the version of ONNX Runtime."""
        return {"kernels": "none" if self.library is None else self.library.isa}

    def configure(self, options: Any, threads: int) -> None:
        """Prepare the options of a session over the graph, an `onnxruntime.SessionOptions`.

        The threads of our kernels are the process's: those of the session that was opened last.
        """
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if self.library is None:
            return
        options.register_custom_ops_library(str(self.library.path))
        if not self.products:
            # Attention runs on the runtime's calling thread: it is a small part of such a step, and
            # two pools that spin take the cores from each other.
            return
        self.library.set_threads(threads)
        if self.whole:
            # The runtime's pool has nothing left that is worth sharing.
            options.intra_op_num_threads = 1
        else:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def without_kernels(parts: OnnxParts, reason: str = "they were not asked for") -> Choice:
    """Return the choice of ONNX Runtime's own operators."""
    return Choice(parts.graph.file, None, reason, provider=parts.requires.provider)


def choose(parts: OnnxParts) -> Choice:
    """Return what runs an engine here: our kernels, where the engine and this machine have them."""
    kernels = parts.kernels
    if kernels is None:
        return without_kernels(parts, "the engine has no products that our kernels make")
    if not 1 <= kernels.operators <= OPERATORS:
        return without_kernels(
            parts,
            f"the engine has revision {kernels.operators} of our operators, and this trtcoder "
            f"{OPERATORS}; build the engine again",
        )
    try:
        return Choice(kernels.file, open_library(), whole=kernels.whole, products=kernels.products)
    except DependencyError as error:
        return without_kernels(parts, str(error))
    except EngineError as error:
        return Choice(parts.graph.file, None, str(error), is_broken=True)
