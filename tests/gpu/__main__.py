"""Run the steps that only a GPU can run, one line each; see docs/gpu.md."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.gpu import wheels
from tests.gpu.place import PREPARED, Entry, Found, NotPreparedError, Place, note

# A step's module, and what it shows.
STEPS = {
    "moe": "experts against float64",
    "attention": "paged latent attention against NumPy",
    "demo": "the demo engine against the CPU's",
    "lite": "a Lite of random weights, beside transformers",
    "serving": "serve under load",
}
# Exit status where there is no GPU: nothing was run, and nothing failed.
NO_GPU = 3
_LIMIT = 1800.0
_MARK = "found: "


def main(arguments: list[str]) -> int:
    """Run the steps that are named, or all; return the exit status."""
    unknown = [name for name in arguments if name not in STEPS]
    if unknown:
        print(f"no step {unknown[0]}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    reason = no_gpu()
    if reason is not None:
        print(f"no GPU here, nothing was run: {reason}", file=sys.stderr)
        return NO_GPU
    work = PREPARED / "work"
    # What is imported before packages that were brought along is a step's affair.
    paths = [str(Path("src").absolute()), str(Path.cwd())]
    if (PREPARED / "wheels").exists():
        paths.insert(0, str(wheels.install(PREPARED / "wheels", work).absolute()))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    failed = False
    for name in arguments or list(STEPS):
        entry = run_apart(name, environment)
        note(PREPARED / "journal.jsonl", entry)
        failed |= entry.problem is not None
        state = "ok" if entry.problem is None else f"FAILED: {entry.problem}"
        print(f"{name} ({entry.seconds:.0f} s): {state}. {entry.line}", flush=True)
    return 1 if failed else 0


def run_apart(name: str, environment: dict[str, str]) -> Entry:
    """Run a step in a process of its own, so that no crash takes the others along."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tests.gpu", "--step", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return Entry(name, _LIMIT, "", {}, f"not done after {_LIMIT:.0f} s")
    seconds = time.perf_counter() - start
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            told = json.loads(line.removeprefix(_MARK))
            problem = "; ".join(told["problems"]) or None
            return Entry(name, seconds, told["line"], told["values"], problem)
    words = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    return Entry(name, seconds, "", {"stderr": done.stderr[-4000:]}, words[-1])


def run_step(name: str) -> None:
    """Run a step in this process, and print what it found."""
    place = Place("cuda", PREPARED, PREPARED / "work")
    place.work.mkdir(parents=True, exist_ok=True)
    try:
        found: Found = importlib.import_module(f"tests.gpu.{name}").run(place)
    except NotPreparedError as error:
        found = Found("", {}, (str(error),))
    told = {"line": found.line, "values": found.values, "problems": list(found.problems)}
    print(f"\n{_MARK}{json.dumps(told)}", flush=True)


def no_gpu() -> str | None:
    """Return why there is no GPU, or None."""
    from trtcoder.errors import TrtcoderError
    from trtcoder.runtime.engine.cuda_device import require_gpu

    try:
        require_gpu()
    except TrtcoderError as error:
        return str(error)
    return None


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        run_step(sys.argv[2])
    else:
        raise SystemExit(main(sys.argv[1:]))
