"""What every benchmark records beside its figures, and where results are kept."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("trtcoder", "onnxruntime", "numpy", "torch", "transformers")


def environment(*packages: str) -> dict[str, Any]:
    """Return hardware, versions (those of ``packages`` too) and the command."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory) / 2**20, 1),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)},
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
    }


def peak_rss_mb() -> int:
    """Return this process's largest resident memory.

    Not `getrusage`: its figure starts at the size of the process that forked this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


def keep(name: str, result: dict[str, Any]) -> None:
    """Write a result to ``results/NAME.json`` and print it as one line."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(json.dumps(result, ensure_ascii=False))


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else sys.argv[0]
