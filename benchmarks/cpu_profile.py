"""Where the time of a step goes: ONNX Runtime's profile of our engine, by what nodes are for.

    python -m benchmarks.cpu_profile [--layers N] [--row ROW]…

Those of all layers are added up in each step, and the median over steps is shown. What is left of
a step's own time is ONNX Runtime's, between nodes, and Python's.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from benchmarks.cpu_models import Models
from benchmarks.cpu_names import REST
from benchmarks.cpu_ours import CHUNK, Engine, rows_of
from benchmarks.cpu_work import DECODE_STEPS, WARM, Work, all_work
from benchmarks.record import keep

ROWS = ("decode at 0", "decode at 2048", "decode at 8192", "8 sequences at 512", "prefill 512")


def role_of(node: str) -> str:
    """Return what a node is for, without its layer: ``attention``, ``moe/experts``, ``head``."""
    return re.sub(r"^layers\.\d+/", "", node.removesuffix("_kernel_time"))


def times(
    events: list[dict[str, Any]], first: int, wall: list[float], runs_a_step: int = 1
) -> dict[str, float]:
    """Return milliseconds a step by role, from a profile's events, and the rest.

    The first ``first`` steps are not counted; ``wall`` has the others' own seconds. In a step each
    node runs ``runs_a_step`` times.
    """
    steps = len(wall)
    runs: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs[event["name"]].append(event["dur"] / 1e3)
    roles: dict[str, list[float]] = defaultdict(lambda: [0.0] * steps)
    rest = [1e3 * seconds for seconds in wall]
    for name, each in runs.items():
        for number, spent in enumerate(each[first * runs_a_step :]):
            step = number // runs_a_step
            roles[role_of(name)][step] += spent
            rest[step] -= spent
    found = {role: statistics.median(each) for role, each in roles.items()}
    found[REST] = statistics.median(rest)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def profile(folder: Path, work: Work) -> dict[str, float]:
    """Return milliseconds a step by role at a row of `benchmarks.cpu`."""
    import onnxruntime as ort

    plain = ort.SessionOptions
    with tempfile.TemporaryDirectory() as scratch:

        class Profiled(plain):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                super().__init__()
                self.enable_profiling = True
                self.profile_file_prefix = str(Path(scratch) / "profile")

        ort.SessionOptions = Profiled
        try:
            engine = Engine(folder, max(work.sequences, 1) * (rows_of(work) + 16))
        finally:
            ort.SessionOptions = plain
        wall = []
        for number in range(WARM + (DECODE_STEPS if work.sequences else 1)):
            started = time.perf_counter()
            engine.step(work, number, rows_of(work))
            wall.append(time.perf_counter() - started)
        path = Path(engine.runner._session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
    return times(events, WARM, wall[WARM:], 1 if work.sequences else -(-work.tokens // CHUNK))


@click.command()
@click.option("--layers", default=27, show_default=True, help="Layers of the Lite.")
@click.option("--row", "names", multiple=True, default=ROWS, help="Rows of `benchmarks.cpu`.")
@click.option("--no-keep", is_flag=True, help="Do not write the result.")
def main(layers: int, names: tuple[str, ...], no_keep: bool) -> None:
    """Measure and print a table, then one JSON line."""
    unknown = set(names) - {work.name for work in all_work()}
    if unknown:
        raise click.BadParameter(", ".join(unknown))
    folder = Models(layers).engine()
    found = {
        name: {role: round(value, 3) for role, value in profile(folder, Work.read(name)).items()}
        for name in names
    }
    result = {"layers": layers, "milliseconds": found}
    for name, each in found.items():
        click.echo(f"{name}: {sum(each.values()):.1f} ms")
        for role, value in list(each.items())[:8]:
            click.echo(f"  {role:<40}{value:>10.2f}")
    if no_keep:
        click.echo(json.dumps(result))
    else:
        keep("cpu_profile", result)


if __name__ == "__main__":
    main()
