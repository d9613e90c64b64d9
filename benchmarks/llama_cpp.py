"""llama.cpp, our nearest peer: downloaded, built and run from a source package on PyPI.

The source package of llama-cpp-python carries llama.cpp and its ctypes bindings. What is built is
the library that computes logits, the two programs that quantize (`llama-quantize`, and
`llama-imatrix`, which measures activations on calibration text), and the server, without its page.

Two lines of llama.cpp are changed before it is built (`CHANGES`). It knows the models without
q_lora by their number of layers, 26 or 27, and refuses the demo model, which has 6: with the
change it knows them by what the file says. And where the CPU has AMX it repacks weights for that
alone, which ends in an assertion on this architecture: with the change the environment variable
`NO_AMX` leaves it to the repacking for AVX-512. Nothing that computes is touched.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from trtcoder.testing.user_cache import user_cache

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
NO_AMX = "LLAMA_WITHOUT_AMX"
# File -> a line of it, and what takes its place.
CHANGES = {
    "src/models/deepseek2.cpp": (
        "const bool is_lite = (hparams.n_layer() == 27 || hparams.n_layer() == 26 || "
        "(hparams.n_layer() == 48 && n_vocab == 128256));",
        "const bool is_lite = !ml.get_key(LLM_KV_ATTENTION_Q_LORA_RANK, hparams.n_lora_q, false);",
    ),
    "ggml/src/ggml-cpu/ggml-cpu.cpp": (
        "if (ggml_backend_amx_buffer_type()) {",
        f'if (!getenv("{NO_AMX}") && ggml_backend_amx_buffer_type()) {{',
    ),
}
_CMAKE = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_NATIVE": "ON",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "ON",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_APP": "OFF",
}
_TARGETS = ("llama", "llama-quantize", "llama-imatrix", "llama-server")
# Instruction sets that a build can be limited to -> what cmake is told otherwise.
LIMITED = {"avx2": {"GGML_NATIVE": "OFF"}}


def threads() -> int:
    """Return how many threads llama.cpp gets: all cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """A built llama.cpp.

    Attributes:
        package: the unpacked source package.
        build: cmake's build folder.
    """

    package: Path
    build: Path

    def quantize(self, model: Path, out: Path, kind: str, imatrix: Path | None = None) -> list[str]:
        """Write ``model``, an unquantized GGUF, as ``kind``, such as ``Q4_K_M``.

        Returns:
            The warnings that llama-quantize printed.
        """
        options = ["--imatrix", str(imatrix)] if imatrix else []
        command = [*options, str(model), str(out), kind, str(threads())]
        return self._run("llama-quantize", command)

    def types(self, model: Path, kind: str) -> dict[str, str]:
        """Return the type that `quantize` would store each tensor as, such as ``Q6_K``.

        ``model`` needs no tensor data, only room for it.
        """
        found = self._output("llama-quantize", ["--dry-run", str(model), kind])
        line = re.compile(r"\] +(\S+) +- \[.*\], type = +(\w+), size = [^(]*(?:\((\w+)\))?$")
        matches = [line.search(printed) for printed in found]
        return {each[1]: (each[3] or each[2]).upper() for each in matches if each}

    def importance(self, model: Path, text: Path, out: Path) -> list[str]:
        """Measure the squared activations of ``model`` on a file of text.

        The text is cut into chunks of 512 tokens, llama-imatrix's default.

        Returns:
            The warnings that llama-imatrix printed, and how many chunks it ran.
        """
        # Without --parse-special the tokens that mark FIM and chat would be read as text.
        options = ["-m", str(model), "-f", str(text), "-o", str(out), "--parse-special"]
        return self._run("llama-imatrix", [*options, "--no-ppl", "-t", str(threads())])

    def bindings(self) -> Any:
        """Return the package's ctypes bindings, bound to the library that was built.

        The package itself is not imported: it would want the dependencies of its server.
        """
        os.environ["LLAMA_CPP_LIB_PATH"] = str(self.build / "bin")
        if "llama_cpp" not in sys.modules:
            package = types.ModuleType("llama_cpp")
            package.__path__ = [str(self.package / "llama_cpp")]
            sys.modules["llama_cpp"] = package
        return importlib.import_module("llama_cpp.llama_cpp")

    def versions(self) -> dict[str, str]:
        """Return the package, llama.cpp's commit, and what the library uses of this CPU."""
        changes = (self.package / "CHANGELOG.md").read_text(encoding="utf-8")
        section = changes.partition(f"## [{VERSION}]")[2].partition("\n## ")[0]
        commit = re.search(r"ggml-org/llama\.cpp@(\w+)", section)
        return {
            "package": f"{PACKAGE} {VERSION}",
            "commit": commit[1] if commit else "unknown",
            "patched": ", ".join(CHANGES),
            "system": self.bindings().llama_print_system_info().decode(),
        }

    def _run(self, program: str, arguments: list[str]) -> list[str]:
        return _told(self._output(program, arguments))

    def _output(self, program: str, arguments: list[str]) -> list[str]:
        command = [str(self.build / "bin" / program), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace")
        printed = (result.stdout + result.stderr).splitlines()
        if result.returncode:
            raise click.ClickException("\n".join([f"{program} failed:", *printed[-20:]]))
        return printed


# What these programs print that bears on the quality of the outcome; W and E are log levels.
_TOLD = re.compile(r"warning|did not find|partial data|computing over|^[\d.]+ [WE] ", re.IGNORECASE)


def _told(printed: list[str]) -> list[str]:
    """Return what bears on the outcome, once for all layers, without the time of logging."""
    lines = (" ".join(line.split()) for line in printed if _TOLD.search(line))
    lines = (re.sub(r"^[\d.]+ [IWE] ", "", line) for line in lines)
    return list(dict.fromkeys(re.sub(r"blk\.\d+", "blk.*", line) for line in lines))


def cache() -> Path:
    """Return the user's cache folder for llama.cpp: one build serves all working trees."""
    return user_cache() / f"llama.cpp-{VERSION}"


def obtain(work: Path, isa: str | None = None) -> LlamaCpp:
    """Return llama.cpp from ``work``, after downloading and building what is not there.

    The build takes about a quarter of an hour on 2 cores.

    Args:
        work: a folder, kept from one use to the next.
        isa: a key of `LIMITED`, for a library alone that uses no more of this CPU than that.
    """
    work.mkdir(parents=True, exist_ok=True)
    package = work / f"llama_cpp_python-{VERSION}"
    if not package.is_dir():
        _unpack(_download(work), work)
    source = package / "vendor" / "llama.cpp"
    for name, lines in CHANGES.items():
        _patch(source / name, *lines)
    suffix, wanted = (f"-{isa}", _TARGETS[:1]) if isa else ("", _TARGETS)
    cmake = _CMAKE | (LIMITED[isa] if isa else {})
    llama = LlamaCpp(package, work / f"build{suffix}")
    built = [llama.build / "bin" / name for name in ("libllama.so", *wanted[1:])]
    # What the build that is there was made of.
    stamp, made_of = work / f"made-of{suffix}.json", json.dumps([cmake, CHANGES])
    is_current = stamp.is_file() and stamp.read_text(encoding="utf-8") == made_of
    if not is_current or not all(path.exists() for path in built):
        click.echo(f"building llama.cpp in {llama.build}: a quarter of an hour", err=True)
        settings = [f"-D{name}={value}" for name, value in cmake.items()]
        targets = ["--target", *wanted, "--parallel", str(threads())]
        with (work / f"build{suffix}.log").open("w", encoding="utf-8") as log:
            for command in (
                ["cmake", "-S", str(source), "-B", str(llama.build), *settings],
                ["cmake", "--build", str(llama.build), *targets],
            ):
                _build(command, log)
        stamp.write_text(made_of, encoding="utf-8")
    return llama


def _build(command: list[str], log: Any) -> None:
    try:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    except FileNotFoundError as error:
        raise click.ClickException("cmake is missing; install it and a C++ compiler") from error
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"llama.cpp does not build; see {log.name}") from error


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", str(work), f"{PACKAGE}=={VERSION}"]
    subprocess.run(command, check=True)
    archive = work / f"llama_cpp_python-{VERSION}.tar.gz"
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise click.ClickException(f"{archive}: sha256 is {found}, expected {SHA256}")
    return archive


def _unpack(archive: Path, work: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")


def _patch(path: Path, line: str, instead: str) -> None:
    """Change a line of a file, unless it is changed already."""
    text = path.read_text(encoding="utf-8")
    if instead in text:
        return
    if text.count(line) != 1:
        raise click.ClickException(f"{path}: is not as in {PACKAGE} {VERSION}; remove the folder")
    path.write_text(text.replace(line, instead), encoding="utf-8")
