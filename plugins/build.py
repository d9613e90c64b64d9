"""Compiles the kernels into one shared library; needs a C++20 compiler and nothing else.

    python plugins/build.py LIBRARY [--sanitize address|undefined|thread] [--target TRIPLE]

The compiler is `$CXX`, or the first of c++, g++ and clang++ on the path, or the one in the package
`ziglang`. For another machine, `--target` or the environment variable TRTCODER_TARGET, it is GCC's
cross-compiler or ziglang's. TRTCODER_PLUGINS=0 hides them all. An instruction set's folder is
compiled with its own flags, the rest for any machine of the architecture: `kernels/isa.cpp`
chooses at run time. Objects are kept beside the library's build folder and compiled again when a
file that they include changes.

Exit status 3 means that there is no compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent
BUILD = ROOT.parent / "build"
NO_COMPILER = 3

# A product and a sum are one rounding only where the source says so: every instruction set gives
# the same bits.
COMMON = "-std=c++20 -O3 -g1 -fPIC -fvisibility=hidden -ffp-contract=off -pthread -Wall -Wextra"
# Folder -> architectures it is for, and its flags.
ISA_FLAGS = {
    "kernels/x86/avx2": ("x86_64", "-mavx2 -mfma -mf16c"),
    "kernels/x86/avxvnni": ("x86_64", "-mavx2 -mfma -mf16c -mavxvnni"),
    "kernels/x86/avx512": (
        "x86_64",
        "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c"
        " -mprefer-vector-width=512",
    ),
    "kernels/x86/amx": (
        "x86_64",
        "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c"
        " -mprefer-vector-width=512 -mavx512vbmi -mgfni -mamx-tile -mamx-int8 -mamx-bf16",
    ),
    "kernels/arm/neon": ("aarch64", "-march=armv8.2-a+dotprod+fp16"),
}


def compiler(target: str | None = None) -> list[str] | None:
    """Return the command of the C++ compiler, or None where there is none.

    ``target`` is a triple; one with a version of glibc, such as x86_64-linux-gnu.2.17, only
    ziglang's compiler knows.
    """
    if os.environ.get("TRTCODER_PLUGINS") == "0":
        return None
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in [f"{target}-g++"] if target else ["c++", "g++", "clang++"]:
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        command = [sys.executable, "-m", "ziglang", "c++"]
        return [*command, "-target", target] if target else command
    return None


def sources(machine: str) -> list[tuple[Path, list[str]]]:
    """Return the files to compile for an architecture, each with the flags of its folder."""
    found = []
    for path in sorted([*ROOT.glob("kernels/**/*.cpp"), *ROOT.glob("ort/*.cpp")]):
        folder = path.parent.relative_to(ROOT).as_posix()
        architecture, flags = ISA_FLAGS.get(folder, (machine, ""))
        if architecture == machine:
            found.append((path, flags.split()))
    return found


def is_current(target: Path) -> bool:
    """Tell whether an object is newer than all that its last compilation read."""
    depends = target.with_suffix(".d")
    if not target.is_file() or not depends.is_file():
        return False
    read = depends.read_text().replace("\\\n", " ").partition(": ")[2].split()
    built = target.stat().st_mtime
    return all(Path(name).is_file() and Path(name).stat().st_mtime < built for name in read)


def build(library: Path, command: list[str], machine: str, extra: list[str], objects: Path) -> None:
    """Compile what has changed, into a folder of ``objects``, and link it.

    Raises:
        subprocess.CalledProcessError: the compiler failed; it has printed why.
    """
    flags = [*COMMON.split(), f"-I{ROOT}", *extra]
    key = hashlib.sha256(repr((command, flags, ISA_FLAGS, str(ROOT))).encode()).hexdigest()[:12]
    folder = objects / key

    def compile_one(source: tuple[Path, list[str]]) -> tuple[Path, bool]:
        path, own = source
        target = folder / path.relative_to(ROOT).with_suffix(".o")
        if is_current(target):
            return target, False
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [*command, *flags, *own, "-MMD", "-c", str(path), "-o", str(target)], check=True
        )
        return target, True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(compile_one, sources(machine)))
    if library.is_file() and not any(new for _, new in compiled):
        newest = max(target.stat().st_mtime for target, _ in compiled)
        stamp = library.with_suffix(".key")
        if library.stat().st_mtime > newest and stamp.is_file() and stamp.read_text() == key:
            return
    library.parent.mkdir(parents=True, exist_ok=True)
    # Linked aside and renamed: a process that has the old library mapped keeps it.
    fresh = library.with_suffix(f".{os.getpid()}")
    linked = [str(target) for target, _ in compiled]
    own = [f"-Wl,--version-script={ROOT / 'exports.map'}"]
    if "ziglang" not in command and not extra:
        # So that it needs nothing of the machine but its libc; ziglang's always does so.
        own += ["-static-libstdc++", "-static-libgcc"]
    subprocess.run([*command, *flags, "-shared", *own, "-o", str(fresh), *linked], check=True)
    fresh.replace(library)
    library.with_suffix(".key").write_text(key)


def library_platform(library: Path) -> str | None:
    """Return the platform of the machines that a library runs on, by what it asks of glibc.

    Linux's common tag for it is manylinux with that version (PEP 600). None for other systems.
    """
    content = library.read_bytes()
    machine = {62: "x86_64", 183: "aarch64"}.get(int.from_bytes(content[18:20], "little"))
    versions = re.findall(rb"GLIBC_2\.(\d+)", content)
    if content[:4] != b"\x7fELF" or machine is None or not versions or b"GLIBCXX_" in content:
        return None
    return f"manylinux_2_{max(17, *map(int, versions))}_{machine}"


def main() -> int:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("library", type=Path)
    parser.add_argument("--sanitize", help="address, undefined or thread; a list with commas")
    parser.add_argument(
        "--target",
        default=os.environ.get("TRTCODER_TARGET"),
        help="cross-compile for this triple, such as aarch64-linux-gnu",
    )
    given = parser.parse_args()
    command = compiler(given.target)
    if command is None:
        print("no C++ compiler: install g++ or clang, or `pip install ziglang`", file=sys.stderr)
        return NO_COMPILER
    machine, extra = (given.target or platform.machine()).partition("-")[0], []
    if given.sanitize:
        extra += [f"-fsanitize={given.sanitize}", "-fno-omit-frame-pointer", "-O1"]
        extra += ["-fno-sanitize-recover=all"]
    objects = BUILD / ("sanitized" if given.sanitize else "plugins")
    try:
        build(given.library, command, machine, extra, objects)
    except subprocess.CalledProcessError:
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
