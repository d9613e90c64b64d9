"""Whether an engine runs on our kernels or on ONNX Runtime's own operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtcoder.bundle.onnx import OnnxParts
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
    """

    file: str
    library: KernelLibrary | None
    reason: str = ""
    is_broken: bool = False
    whole: bool = False

    def __str__(self) -> str:
        if self.library is None:
            return f"ONNX Runtime's own operators: {self.reason}"
        rest = "" if self.whole else ", and ONNX Runtime's own operators"
        return f"trtcoder's kernels, {self.library.isa}{rest}"

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
        self.library.set_threads(threads)
        options.register_custom_ops_library(str(self.library.path))
        if self.whole:
            # Two pools that spin would take the cores from each other, and the runtime's own has
            # nothing left that is worth sharing.
            options.intra_op_num_threads = 1


def without_kernels(parts: OnnxParts, reason: str = "they were not asked for") -> Choice:
    """Return the choice of ONNX Runtime's own operators."""
    return Choice(parts.graph.file, None, reason)


def choose(parts: OnnxParts) -> Choice:
    """Return what runs an engine here: our kernels, where the engine and this machine have them."""
    kernels = parts.kernels
    if kernels is None:
        return without_kernels(parts, "the engine has no products that our kernels make")
    if kernels.operators != OPERATORS:
        return without_kernels(
            parts,
            f"the engine has revision {kernels.operators} of our operators, and this trtcoder "
            f"{OPERATORS}; build the engine again",
        )
    try:
        return Choice(kernels.file, open_library(), whole=kernels.whole)
    except DependencyError as error:
        return without_kernels(parts, str(error))
    except EngineError as error:
        return Choice(parts.graph.file, None, str(error), is_broken=True)
