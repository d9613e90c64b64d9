"""Triton's stub, the program in which a model's Python runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trtcoder.errors import DependencyError

NAME = "triton_python_backend_stub"
# What its copy of pybind11 imports from NumPy 2; one that does not know it reads arrays wrongly,
# and the first request ends the process.
_KNOWS = b"numpy._core"


def check_numpy(program: Path | None = None) -> None:
    """Raise DependencyError where this process's stub was compiled before NumPy 2 and meets it."""
    program = program or Path("/proc/self/exe").resolve()
    if program.name != NAME or int(np.__version__.split(".")[0]) < 2:
        return
    if _KNOWS not in program.read_bytes():
        raise DependencyError(
            f"NumPy {np.__version__} is installed, and this release of Triton was compiled before "
            "NumPy 2; pip install 'numpy<2' in the Python that runs the models"
        )
