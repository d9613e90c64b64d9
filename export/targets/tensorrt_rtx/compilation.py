"""Compiles an engine's plans one after another, and goes on where an interrupted build stopped.

A note beside the engine's folder, ``plans.json``, has the sha256 of each plan that is whole, and a
key: what the plan was made of and what it was made for. A plan is compiled again unless both are
still true.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trtcoder.bundle.compiled import PlanInfo
from trtcoder.bundle.durable import replace_file
from trtcoder.bundle.folder import file_sha256
from trtcoder.errors import BuildError
from trtcoder.export.targets.tensorrt_rtx import compiler
from trtcoder.export.targets.tensorrt_rtx.compiler import Compiled, Job
from trtcoder.progress import byte_progress
from trtcoder.tensorrt_rtx.libraries import versions
from trtcoder.typed_json import MismatchError, read

NOTE = "plans.json"
# Rows that attention usually reads, for which kernels are chosen.
_USUAL_WINDOW = 2048
_SHOWN_LINES = 3


@dataclass(frozen=True, slots=True)
class Shapes:
    """The largest sizes that plans take: slots, tokens of a slot, and tokens of a prompt's step."""

    slots: int
    context: int
    chunk: int

    @property
    def rows(self) -> int:
        """Cache rows of a slot; the last one takes what slots that rest write."""
        return self.context + 1

    def profiles(self, head: bool) -> tuple[dict[str, tuple[int, int, int]], ...]:
        """Return what is known of each named dimension when decoding, and of a prompt's step.

        The head takes the tokens whose logits are wanted, one of each slot at most.
        """
        decode = {"tokens": (1, 1, self.slots)}
        if head:
            return (decode,)
        window = (1, min(self.context, _USUAL_WINDOW), self.context)
        chunk = (1, self.chunk, self.chunk)
        decode |= {"slots": decode["tokens"], "length": (1, 1, 1), "window": window}
        prompt = {"tokens": chunk, "slots": (1, 1, 1), "length": chunk, "window": window}
        return decode, prompt


@dataclass(frozen=True, slots=True)
class Compilation:
    """What plans are compiled for."""

    capabilities: tuple[int, ...]
    shapes: Shapes
    weight_streaming: bool

    def builder(self) -> dict[str, str]:
        """Return the packages that compile, with their versions."""
        return versions()

    def job(self, folder: Path, info: PlanInfo) -> Job:
        """Return what makes one plan."""
        return Job(
            graph=str(folder / info.graph),
            plan=str(folder / f"{info.file}.partial"),
            capabilities=self.capabilities,
            rows=self.shapes.rows,
            profiles=self.shapes.profiles(head=info.layers is None),
            weight_streaming=self.weight_streaming,
        )


@dataclass(frozen=True, slots=True)
class _Noted:
    key: str
    sha256: str


def compile_in_child(job: Job) -> Compiled:
    """Do a job in a process of its own.

    Raises:
        BuildError: TensorRT-RTX refuses the graph, or does not come to an end.
    """
    command = [sys.executable, "-m", compiler.__name__, str(os.getpid())]
    done = subprocess.run(
        command, input=json.dumps(dataclasses.asdict(job)), capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    try:
        result = json.loads(lines[-1]) if lines else {}
        if "error" in result:
            raise BuildError(str(result["error"]))
        return read(Compiled, result)
    except (ValueError, MismatchError) as error:
        last = "; ".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])
        ending = (
            f"was ended by signal {-done.returncode}"
            if done.returncode < 0
            else f"ended with status {done.returncode}"
        )
        raise BuildError(
            f"{job.graph}: the compiler {ending}{f' ({last})' if last else ''}; it needs about "
            "7 GB of memory for 2 GB of weights. Run the same command again: plans that are "
            "compiled are kept"
        ) from error


def compile_plans(
    folder: Path,
    sizes: Mapping[PlanInfo, int],
    compilation: Compilation,
    compile_one: Callable[[Job], Compiled] = compile_in_child,
) -> dict[str, Compiled]:
    """Compile the plans that are not there, and return what each of these took.

    ``sizes`` are the bytes of their weights, whose files and graphs lie in ``folder``.

    Raises:
        BuildError: TensorRT-RTX refuses a graph, or does not come to an end.
    """
    note = folder.with_name(NOTE)
    noted, made = _read(note), {}
    with byte_progress("compiling", sum(sizes.values())) as advance:
        for info, size in sizes.items():
            advance(0, info.file)
            job = compilation.job(folder, info)
            key = _key(job, folder, info, compilation)
            if not _is_there(folder / info.file, key, noted.get(info.file)):
                made[info.file] = compile_one(job)
                Path(job.plan).replace(folder / info.file)
                noted[info.file] = _Noted(key, file_sha256(folder / info.file))
                entries = {name: dataclasses.asdict(each) for name, each in noted.items()}
                replace_file(note, json.dumps(entries))
            advance(size, info.file)
    return made


def _key(job: Job, folder: Path, info: PlanInfo, compilation: Compilation) -> str:
    graph = folder / info.graph
    made_of = {
        "graph": file_sha256(graph),
        "weights": file_sha256(graph.with_suffix(".data")),
        "job": {**dataclasses.asdict(job), "graph": info.graph, "plan": info.file},
        "builder": compilation.builder(),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _is_there(path: Path, key: str, noted: _Noted | None) -> bool:
    return (
        noted is not None
        and noted.key == key
        and path.is_file()
        and file_sha256(path) == noted.sha256
    )


def _read(note: Path) -> dict[str, _Noted]:
    """Return what was noted; a note that cannot be read says nothing."""
    try:
        entries = json.loads(note.read_text("utf-8"))
        return {name: read(_Noted, entry) for name, entry in entries.items()}
    except (OSError, ValueError, AttributeError, MismatchError):
        return {}
