"""Adds the compiled kernels to the package where there is a compiler.

A package without them is complete: engines then run on the runtime's own operators, and
`trtcoder doctor` says so.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

BUILD = Path(__file__).parent / "plugins" / "build.py"
LIBRARY = "trtcoder.plugins.libtrtcoder_kernels"

library_platform = runpy.run_path(str(BUILD))["library_platform"]


class BuildKernels(build_ext):
    """Runs `plugins/build.py`, and goes on without the library if that fails."""

    def build_extension(self, ext: Extension) -> None:
        """Compile the library to where the package wants it."""
        target = Path(self.get_ext_fullpath(ext.name)).absolute()
        status = subprocess.run([sys.executable, str(BUILD), str(target)]).returncode
        if status:
            print(
                "trtcoder: the kernels were not compiled; engines run on ONNX Runtime's own "
                "operators. Later: `make plugins`, or `python plugins/build.py` in a checkout."
            )

    def get_ext_filename(self, fullname: str) -> str:
        """Return a name without Python's version: the library is called through ctypes."""
        return f"{fullname.replace('.', '/')}.so"

    def get_outputs(self) -> list[str]:
        """Return what was built."""
        return [path for path in super().get_outputs() if Path(path).is_file()]


class PlatformWheel(bdist_wheel):
    """A wheel for any Python of one platform, or of any where there is no library in it."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag: the library is called through ctypes, by no Python in particular."""
        _, _, platform = super().get_tag()
        folder = Path(self.get_finalized_command("build").build_lib)
        library = folder / f"{LIBRARY.replace('.', '/')}.so"
        if not library.is_file():
            return "py3", "none", "any"
        return "py3", "none", library_platform(library) or platform


setup(
    # Optional: what was not built is not copied into the source tree, whatever is there.
    ext_modules=[Extension(LIBRARY, sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
