"""Asks our operators for right and wrong things, made out of bytes, and looks whether they hold.

    python -m plugins.fuzzing [--seconds N] [--seed N] [--plain | --libfuzzer | --target TRIPLE]

Runs the corpus in `plugins/fuzz/corpus`, then changes of it. The library and the program are
compiled with the sanitizers of addresses and undefined behaviour, but for `--plain`; in either case
each tensor ends at a page that may not be touched. With `--libfuzzer`, clang's libFuzzer chooses
the changes by what code they reach, and keeps what reaches new code in `build/fuzz/found`. With
`--target` the program runs in qemu, and what it computes on each instruction set there is compared
with the portable one's here, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from plugins.build import BUILD, ROOT, compiler

CORPUS = ROOT / "fuzz" / "corpus"
SANITIZERS = "address,undefined"
THREADS = 3
NEEDED = "no C++ compiler: install g++ or clang, or `pip install ziglang`"


@dataclass(frozen=True)
class Fuzzer:
    """A compiled program, and what runs it."""

    program: Path
    runner: tuple[str, ...] = ()

    def run(self, *arguments: str, check: bool = True, isa: str = "") -> str:
        """Run it on the corpus; return what it printed.

        Raises:
            subprocess.CalledProcessError: an input ended it.
        """
        environment = variables()
        environment["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1"
        if isa:
            environment["TRTCODER_ISA"] = isa
        command = [*self.runner, str(self.program), *arguments, *map(str, corpus())]
        result = subprocess.run(
            command, check=check, stdout=subprocess.PIPE, text=True, env=environment,
            cwd=self.program.parent,
        )  # fmt: skip
        return result.stdout


def variables() -> dict[str, str]:
    """Return the environment of programs: a sanitizer loaded into this one is not for them."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def corpus() -> list[Path]:
    """Return the inputs that are kept."""
    return sorted(CORPUS.iterdir())


def build_fuzzer(
    library: Path, folder: Path, *, sanitizers: str = "", target: str | None = None
) -> Fuzzer | None:
    """Compile the program against a library of the same flags; None where no compiler is.

    Raises:
        subprocess.CalledProcessError: the compiler failed; it has printed why.
    """
    command = compiler(target)
    if command is None:
        return None
    sources = [ROOT / "fuzz" / name for name in ("operators.cpp", "runtime.cpp", "driver.cpp")]
    flags = ["-std=c++20", "-O1", "-g1", f"-I{ROOT}", "-pthread"]
    if sanitizers:
        flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "fuzz"
    linked = [str(library.resolve()), f"-Wl,-rpath,{library.parent.resolve()}", "-o", str(program)]
    subprocess.run([*command, *flags, *map(str, sources), *linked], check=True, env=variables())
    return Fuzzer(program, _runner(target))


def _runner(target: str | None) -> tuple[str, ...]:
    machine = (target or platform.machine()).partition("-")[0]
    if machine == platform.machine():
        return ()
    qemu = shutil.which(f"qemu-{machine}") or shutil.which(f"qemu-{machine}-static")
    if qemu is None:
        raise SystemExit(f"qemu-{machine} is missing: apt-get install qemu-user")
    # Where Debian's cross-compilers keep the libraries of their machine.
    return (qemu, "-cpu", "max", "-L", f"/usr/{target}")


def build_library(library: Path, *options: str) -> Path:
    """Compile the kernels."""
    command = [sys.executable, str(ROOT / "build.py"), str(library), *options]
    subprocess.run(command, check=True)
    return library


def run_libfuzzer(seconds: int) -> int:
    """Let libFuzzer change the corpus for a while; return its exit status."""
    clang = next(filter(None, map(shutil.which, ("clang++", "clang++-14", "clang++-19"))), None)
    if clang is None:
        raise SystemExit("clang is missing: apt-get install clang libclang-rt-14-dev")
    os.environ["CXX"] = clang
    folder = BUILD / "fuzz" / "libfuzzer"
    found = BUILD / "fuzz" / "found"
    found.mkdir(parents=True, exist_ok=True)
    kinds = f"{SANITIZERS},fuzzer-no-link"
    library = build_library(folder / "libtrtcoder_kernels.so", "--sanitize", kinds)
    sources = [str(ROOT / "fuzz" / name) for name in ("operators.cpp", "runtime.cpp")]
    flags = ["-std=c++20", "-O1", "-g1", f"-I{ROOT}", "-pthread", f"-fsanitize={SANITIZERS},fuzzer"]
    program = folder / "fuzz"
    linked = [str(library), f"-Wl,-rpath,{folder}", "-o", str(program)]
    subprocess.run([clang, *flags, *sources, *linked], check=True)
    options = [f"-max_total_time={seconds}", "-max_len=256", "-print_final_stats=1"]
    command = [str(program), *options, f"-artifact_prefix={folder}/", str(found), str(CORPUS)]
    return subprocess.run(command, check=False, env=variables()).returncode


def compare(target: str) -> int:
    """Compare every instruction set of another machine with this one's portable code."""
    folder = BUILD / "fuzz"
    here = build_library(folder / "here" / "libtrtcoder_kernels.so")
    there = build_library(folder / target / "libtrtcoder_kernels.so", "--target", target)
    own = build_fuzzer(here, folder / "here")
    fuzzer = build_fuzzer(there, folder / target, target=target)
    if own is None or fuzzer is None:
        raise SystemExit(NEEDED)
    expected = own.run("--print", isa="portable")
    status = 0
    for isa in ("portable", "neon"):
        found = fuzzer.run("--print", "--threads", str(THREADS), isa=isa)
        differing = [
            f"{old}\n  {new}"
            for old, new in zip(expected.splitlines(), found.splitlines(), strict=True)
            if old != new
        ]
        print(f"{target}, {isa}: {len(differing)} of {len(corpus())} inputs differ")
        for each in differing:
            print(f"  {each}")
        status |= bool(differing)
    return status


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--target", help="compare this triple in qemu, such as aarch64-linux-gnu")
    parser.add_argument("--plain", action="store_true", help="without sanitizers")
    parser.add_argument("--libfuzzer", action="store_true", help="with clang's libFuzzer")
    given = parser.parse_args()
    if given.libfuzzer:
        return run_libfuzzer(int(given.seconds))
    if given.target:
        return compare(given.target)
    kind = "plain" if given.plain else "sanitized"
    # The sanitizers of GCC, as in plugins/sanitize.py, whose objects are the same.
    os.environ.setdefault("CXX", "g++")
    folder = BUILD / "fuzz" / kind
    options = [] if given.plain else ["--sanitize", SANITIZERS]
    library = build_library(folder / "libtrtcoder_kernels.so", *options)
    fuzzer = build_fuzzer(library, folder, sanitizers="" if given.plain else SANITIZERS)
    if fuzzer is None:
        raise SystemExit(NEEDED)
    arguments = ["--threads", str(THREADS), "--seconds", str(given.seconds), "--seed", given.seed]
    try:
        print(fuzzer.run(*arguments), end="")
    except subprocess.CalledProcessError as error:
        print(f"the input is {folder / 'crash'}; exit status {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
