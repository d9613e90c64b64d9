"""Runs the kernels' tests under the sanitizers of GCC: addresses and undefined behaviour, threads.

    python plugins/sanitize.py [address] [thread]

The library is compiled with a sanitizer, whose runtime is loaded before Python itself. Python,
NumPy and ONNX Runtime are not compiled so: what they do is not watched, and under the thread
sanitizer only tests run that share nothing with their threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Watch:
    """A sanitizer: what is compiled in, what must be loaded first, and which tests run."""

    flags: str
    runtimes: tuple[str, ...]
    environment: dict[str, str]
    tests: tuple[str, ...]


WATCHES = {
    "address": Watch(
        "address,undefined",
        # The C++ runtime too, whose throw is watched.
        ("libasan.so", "libstdc++.so"),
        {
            # Python keeps much until it ends.
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        },
        ("tests/plugins",),
    ),
    "thread": Watch(
        "thread",
        ("libtsan.so",),
        {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"},
        ("tests/plugins/test_linear.py", "tests/plugins/test_experts.py",
         "tests/plugins/test_attention.py", "tests/plugins/test_attention_parts.py",
         "tests/plugins/test_threads.py"),
    ),
}  # fmt: skip


def run(name: str, watch: Watch) -> int:
    """Compile and test; return the exit status."""
    library = ROOT / "build" / "sanitized" / f"libtrtcoder_kernels.{name}.so"
    command = [sys.executable, "plugins/build.py", str(library), "--sanitize", watch.flags]
    built = subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, "CXX": "g++"})
    if built.returncode:
        return built.returncode
    found = [
        subprocess.run(
            ["g++", f"-print-file-name={runtime}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for runtime in watch.runtimes
    ]
    environment = {
        **os.environ,
        **watch.environment,
        "LD_PRELOAD": ":".join(found),
        "TRTCODER_KERNELS": str(library),
        # Programs that tests compile are watched, too.
        "TRTCODER_SANITIZE": watch.flags,
        # Sanitizers keep what is freed for a while: OpenBLAS' buffers would be too many.
        "OPENBLAS_NUM_THREADS": "1",
    }
    # The thread sanitizer wants the address space laid out as it was in its time.
    tests = ["setarch", "-R", sys.executable, "-m", "pytest", "-q", "-x", *watch.tests]
    return subprocess.run(tests, cwd=ROOT, check=False, env=environment).returncode


def main() -> int:
    """Run the sanitizers that the command line names, by default all."""
    status = 0
    for name in sys.argv[1:] or WATCHES:
        print(f"== {name}", flush=True)
        status = run(name, WATCHES[name]) or status
    return status


if __name__ == "__main__":
    raise SystemExit(main())
