"""What every benchmark records beside its figures, and where results are kept."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("trtcoder", "onnxruntime", "numpy", "torch", "transformers")
# Instructions that decide which kernels ONNX Runtime and llama.cpp take.
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def environment(*packages: str) -> dict[str, Any]:
    """Return hardware, versions (those of ``packages`` too) and the command."""
    cpu = _cpu()
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "instructions": [name for name in INSTRUCTIONS if name in cpu.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)},
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
    }


def hardware(environment: dict[str, Any]) -> str:
    """Return an environment's hardware in words."""
    instructions = environment.get("instructions")
    best = f" with {instructions[-1].replace('_', '-').upper()}" if instructions else ""
    return f"{environment['cpu']}{best}, {environment['cores']} cores"


def peak_rss_mb() -> int:
    """Return this process's largest resident memory.

    Not `getrusage`: its figure starts at the size of the process that forked this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


def keep(name: str, figures: dict[str, Any], *packages: str) -> None:
    """Write figures, and what they were measured on, to ``results/NAME.json``; print one line.

    ``packages`` are those that matter beside `PACKAGES`.
    """
    result = {"environment": environment(*packages), **figures}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    # A list of numbers is one line.
    text = re.sub(r"\[[-+.\de,\s]+\]", lambda found: " ".join(found[0].split()), text)
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(json.dumps(result, ensure_ascii=False))


def kept(name: str, key: str) -> dict[str, Any]:
    """Return an object of what was kept before, for a run that measures a part of it anew."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get(key, {})
    return found


def _cpu() -> dict[str, str]:
    """Return what the system says of the first core."""
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    return {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in first.splitlines())
    }


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else sys.argv[0]
