"""Compiles the stand-in for CUDA's libraries that one release of ONNX Runtime asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("cuda.c")
_ASKED = re.compile(r" U (\w+)(?:@+(\S+))?$", re.MULTILINE)
_NEEDED = re.compile(r"\(NEEDED\).*\[(lib(?:cu|nvrtc)\S+)\]")
_DEFINED = re.compile(r" T (\w+)$", re.MULTILINE)
_DRIVER = "libcuda.so.1"
# The runtime asks for the driver's own functions without naming their library.
_OF_DRIVER = re.compile(r"cu[A-Z]\w+")
TOOLS = ("gcc", "nm", "readelf")


def compile_libraries(provider: Path, folder: Path, capability: int) -> None:
    """Write to ``folder`` all libraries of CUDA that a provider's library asks for.

    Args:
        provider: `libonnxruntime_providers_cuda.so`.
        folder: made by this.
        capability: of the device that there seems to be, such as 90.

    Raises:
        FileNotFoundError: one of `TOOLS` is missing.
        subprocess.CalledProcessError: it cannot be compiled.
    """
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"{tool} is not installed")
    asked = _ASKED.findall(_run("nm", "-D", "-u", str(provider)))
    needed = _NEEDED.findall(_run("readelf", "-d", str(provider)))
    wanted: dict[str, set[str]] = {library: set() for library in needed}
    # What trtcoder asks for itself.
    wanted[_DRIVER] = {"cuInit", "cuDeviceGetCount"}
    for name, library in asked:
        if library.startswith(("libcu", "libnvrtc")):
            wanted.setdefault(library, set()).add(name)
        elif not library and _OF_DRIVER.fullmatch(name):
            wanted[_DRIVER].add(name)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        for library, names in wanted.items():
            _compile(library, names, Path(scratch), made, capability)
        made.rename(folder)


def _compile(library: str, names: set[str], scratch: Path, folder: Path, capability: int) -> None:
    common = scratch / "cuda.o"
    if not common.exists():
        compiled = ["-w", "-c", "-fPIC", "-O1", f"-DSTANDIN_SM={capability}"]
        _run("gcc", *compiled, str(SOURCE), "-o", str(common))
    answered = set(_DEFINED.findall(_run("nm", str(common))))
    rest, versions = scratch / "rest.c", scratch / "versions"
    rest.write_text("\n".join(f"int {name}(void) {{ return 0; }}" for name in names - answered))
    # The provider asks for names of a version, which is the library's name.
    versions.write_text(f"{library} {{ global: *; }};")
    script = [] if library == _DRIVER else [f"-Wl,--version-script={versions}"]
    linked = ["-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", *script]
    _run("gcc", *linked, "-o", str(folder / library), str(rest), str(common))


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout
