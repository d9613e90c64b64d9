"""Finds and opens the compiled kernels.

The environment variable ``TRTCODER_PLUGINS`` set to 0 hides them, ``TRTCODER_KERNELS`` names
another library, and ``TRTCODER_ISA`` another instruction set than the best.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from trtcoder.errors import DependencyError, EngineError

# What ONNX Runtime knows the operators by.
DOMAIN = "trtcoder"
# The revision of the operators: their names, inputs and attributes, and the layout of weights.
# Graphs of those before it run as well.
OPERATORS = 3
PORTABLE = "portable"
_BUILT = Path(__file__).with_name("libtrtcoder_kernels.so")


class KernelLibrary:
    """The library, opened.

    Attributes:
        path: the file, which ONNX Runtime registers.
        isas: the instruction sets that this machine can run, worst first.
        isa: the one that operators use.
    """

    def __init__(self, path: Path) -> None:
        """Open the library.

        Raises:
            EngineError: the file is for another machine, or is not one of ours.
        """
        self.path = path
        try:
            self.functions = ctypes.CDLL(str(path))
            for name in ("trtcoder_isas", "trtcoder_isa", "trtcoder_set_threads"):
                getattr(self.functions, name).restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise EngineError(
                f"{path}: cannot be loaded: {error}; `make plugins`, or TRTCODER_PLUGINS=0"
            ) from error
        # The first libraries did not say which they had.
        stated = getattr(self.functions, "trtcoder_operators", None)
        found = 1 if stated is None else int(stated())
        if found != OPERATORS:
            raise EngineError(
                f"{path}: has revision {found} of the operators, this trtcoder wants {OPERATORS}; "
                "`make plugins`, or install trtcoder again"
            )
        self.isas = tuple(self.functions.trtcoder_isas().decode().split())
        self.isa: str = self.functions.trtcoder_isa().decode()

    def set_threads(self, count: int) -> None:
        """Set the threads of all kernels of this process.

        Raises:
            EngineError: ``count`` is below 1.
        """
        self.check(self.functions.trtcoder_set_threads(count))

    def check(self, message: bytes | None) -> None:
        """Raise EngineError if a function of the library returned a message."""
        if message is not None:
            raise EngineError(f"{self.path.name}: {message.decode()}")


def library_path() -> Path:
    """Return the library's file.

    Raises:
        DependencyError: it is hidden, or was not built.
    """
    if os.environ.get("TRTCODER_PLUGINS") == "0":
        raise DependencyError("the kernels are hidden by TRTCODER_PLUGINS=0; unset it")
    path = Path(os.environ.get("TRTCODER_KERNELS") or _BUILT)
    if not path.is_file():
        raise DependencyError(
            f"{path}: the kernels were not built; `make plugins` in a checkout, or install "
            "trtcoder again where there is a C++ compiler"
        )
    return path


@cache
def _opened(path: Path) -> KernelLibrary:
    return KernelLibrary(path)


def open_library() -> KernelLibrary:
    """Return the library; it is opened once.

    Raises:
        DependencyError: see `library_path`.
        EngineError: see `KernelLibrary`.
    """
    return _opened(library_path())
