"""Our engine, on the kernels and on ONNX Runtime's operators, beside llama.cpp on one machine.

A Lite of random weights; every program runs in a process of its own, and they take turns. First
each of llama.cpp's settings runs a few rows; those that were best at one of them take part in the
rounds. For each row: the median of each program, and the median over rounds of our speed over
that of the best of llama.cpp in the same round. Beside them what the machine can do at most, which
is measured in the same run, and how much of it each row reaches.

What was measured is kept at once: the same command goes on where it was interrupted, and --minutes
ends it with the rounds that it has. All 27 layers take 28 GB of the user's cache; --layers takes
fewer. With --isa avx2 both programs use no more of the CPU than that: what a CPU without AVX-512
would be told, though by this one's memory and clock.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.cpu_limits import shares
from benchmarks.cpu_models import Models
from benchmarks.cpu_names import INT8, KERNELS, STOCK
from benchmarks.cpu_runs import Program, Runs
from benchmarks.cpu_work import all_work
from benchmarks.llama_cpp import LIMITED, NO_AMX, VERSION, cache, obtain
from benchmarks.machine_peaks import Peaks, measure_peaks
from benchmarks.record import keep
from trtcoder.export.targets.onnxruntime import DATA_FILE
from trtcoder.plugins.library import open_library

KINDS = ("Q4_0", "Q4_K_M")
# What tells the settings of llama.cpp apart.
FIRST_ROWS = ("decode at 0", "decode at 2048", "prefill 512", "8 sequences at 512")
# A setting this near to the best of a row takes part, too.
NEAR = 0.95


def settings(models: Models, kinds: Iterable[str], isa: str | None) -> list[Program]:
    """Return llama.cpp's programs: kind of file, how repacked, whether with flash attention.

    Repacking is for AMX where the CPU has it, and for AVX otherwise; both are tried.
    """
    limit = isa or "native"
    found = []
    for kind in kinds:
        path = models.gguf(kind)
        for repack, label in ((0, ""), (1, ", repacked"), (1, ", repacked for AMX")):
            if label.endswith("AMX") and (isa or not _has_amx()):
                continue
            environment = {} if label.endswith("AMX") else {NO_AMX: "1"}
            for flash, attention in ((1, ", flash attention"), (0, "")):
                command = ("benchmarks.cpu_llama", str(path), str(repack), str(flash), limit)
                name = f"llama.cpp {kind}{label}{attention}"
                revision = f"{VERSION}, {limit}, {path.stat().st_mtime_ns}"
                found.append(Program(name, command, (path,), revision, environment))
    return found


def ours(models: Models, *, with_int8: bool, with_stock: bool, isa: str | None) -> list[Program]:
    """Return our programs, the default first."""
    limit = {"TRTCODER_ISA": isa} if isa else {}
    library = hashlib.sha256(open_library().path.read_bytes()).hexdigest()[:12]

    def program(name: str, engine: Path, **environment: str) -> Program:
        command = ("benchmarks.cpu_ours", str(engine))
        revision = f"{library}, {isa or 'native'}, {engine.name}"
        return Program(name, command, (engine / DATA_FILE,), revision, limit | environment)

    found = [program(KERNELS, models.engine())]
    if with_int8:
        found.append(program(INT8, models.engine("int8")))
    # ONNX Runtime cannot be told which instructions to leave.
    if with_stock and not isa:
        found.append(program(STOCK, models.engine(), TRTCODER_PLUGINS="0"))
    return found


def best_settings(runs: Runs, peers: Sequence[Program], rows: Sequence[str]) -> list[Program]:
    """Return the settings that are the best, or near to it, at one of a few rows."""
    first = [name for name in rows if name in FIRST_ROWS] or list(rows)
    made = {peer.name: runs.run(peer, "settings", first) for peer in peers}
    speeds = {name: found["speeds"] for name, found in made.items() if found and "speeds" in found}
    best = {row: max((each[row] for each in speeds.values()), default=0) for row in first}
    winners = {
        row: max(speeds, key=lambda name, row=row: speeds[name][row])  # type: ignore[misc]
        for row in first
        if speeds
    }
    near = {
        name
        for name, each in speeds.items()
        if sum(each[row] >= NEAR * best[row] for row in first) >= 3
    }
    return [peer for peer in peers if peer.name in {*winners.values(), *near}]


def median(values: Iterable[float]) -> float:
    """Return the median, to four digits."""
    return float(f"{statistics.median(values):.4g}")


@click.command()
@click.option("--layers", default=27, show_default=True, help="Layers of the Lite.")
@click.option("--rounds", default=3, show_default=True, help="Turns of every program.")
@click.option("--minutes", default=600.0, help="Begin no run that would end later.")
@click.option("--row", "rows", multiple=True, help="Only these rows, such as 'decode at 512'.")
@click.option("--setting", "named", multiple=True, help="llama.cpp's settings, as in the table.")
@click.option("--kind", "kinds", multiple=True, default=KINDS, help="llama.cpp's files.")
@click.option("--prepare", is_flag=True, help="Make the files, and measure nothing.")
@click.option("--fresh", is_flag=True, help="Forget the rounds of an interrupted benchmark.")
@click.option("--no-int8", is_flag=True, help="Without the engine with an int8 cache.")
@click.option("--no-stock", is_flag=True, help="Without ONNX Runtime's operators.")
@click.option("--isa", type=click.Choice([*LIMITED]), help="Use no more of the CPU than this.")
@click.option("--no-keep", is_flag=True, help="Do not write the result.")
def main(
    layers: int, rounds: int, minutes: float, rows: tuple[str, ...], named: tuple[str, ...],
    kinds: tuple[str, ...], prepare: bool, fresh: bool, no_int8: bool, no_stock: bool,
    isa: str | None, no_keep: bool,
) -> None:  # fmt: skip
    """Measure and print a table, then one JSON line."""
    names = [work.name for work in all_work() if not rows or work.name in rows]
    unknown = set(rows) - {work.name for work in all_work()}
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; rows are {', '.join(names)}")
    models = Models(layers)
    mine = ours(models, with_int8=not no_int8, with_stock=not no_stock, isa=isa)
    peers = settings(models, kinds, isa)
    absent = set(named) - {_label(peer.name) for peer in peers}
    if absent:
        raise click.BadParameter(
            f"{', '.join(absent)}; there are {[_label(p.name) for p in peers]}"
        )
    if prepare:
        obtain(cache(), isa)
        models.tidy()
        return
    suffix = f"-{isa}" if isa else ""
    runs = Runs(models.folder / f"runs-{layers}{suffix}.jsonl", minutes)
    if fresh:
        runs.forget("round")
    peaks = measure_peaks()
    if isa:
        peaks = Peaks(peaks.read, {isa: peaks.int8[isa]})
    chosen = (
        [peer for peer in peers if _label(peer.name) in named]
        if named
        else best_settings(runs, peers, names)
    )
    for number in range(rounds):
        for program in [*mine[:2], *chosen, *(mine[2:] if number == 0 else [])]:
            runs.run(program, f"round {number + 1}", names)
    result = summary(runs, [*mine, *peers], names, rounds)
    result = {
        "layers": layers, "limited_to": isa, **result,
        "peaks": {"read": peaks.read, "int8": peaks.int8},
        "limits": shares(layers, result["tokens_per_second"][KERNELS], peaks),
        "engine_bytes": (Path(mine[0].command[1]) / DATA_FILE).stat().st_size,
        "gguf_bytes": {kind: models.gguf(kind).stat().st_size for kind in kinds},
    }  # fmt: skip
    for line in table(names, result):
        click.echo(line)
    click.echo(
        f"reads {peaks.read / 1e9:.1f} GB/s; int8, 10^9 operations/s: "
        + ", ".join(f"{name} {each / 1e9:,.0f}" for name, each in peaks.int8.items())
    )
    if no_keep:
        click.echo(json.dumps(result))
    else:
        models.tidy()
        keep(f"cpu{suffix}", result)


def summary(
    runs: Runs, programs: Sequence[Program], names: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Return medians and ratios over the rounds in which we and a setting of llama.cpp ran.

    Raises:
        click.ClickException: there is no such round.
    """
    revisions = {program.name: program.revision for program in programs}
    turns: list[dict[str, dict[str, Any]]] = []
    for number in range(rounds):
        made = {
            program: found
            for (turn, program), found in runs.kept.items()
            if turn == f"round {number + 1}"
            and found["rows"] == list(names)
            and found["revision"] == revisions.get(program)
        }
        made = {name: found for name, found in made.items() if "failed" not in found}
        if KERNELS in made and any(name.startswith("llama.cpp") for name in made):
            turns.append(made)
    if not turns:
        raise click.ClickException("no round was finished; give it more --minutes")
    ran = list(dict.fromkeys(name for made in turns for name in made))

    def each(key: str) -> dict[str, float]:
        return {name: median(made[name][key] for made in turns if name in made) for name in ran}

    def ratios(program: str) -> dict[str, float]:
        return {
            row: median(
                made[program]["speeds"][row]
                / max(found["speeds"][row] for name, found in made.items() if _is_peer(name))
                for made in turns
                if program in made
            )
            for row in names
        }

    return {
        "rounds": len(turns),
        "runs_on": turns[0][KERNELS]["runs_on"],
        "failed": {
            name: found["failed"] for (_, name), found in runs.kept.items() if "failed" in found
        },
        "tokens_per_second": {
            name: {
                row: median(made[name]["speeds"][row] for made in turns if name in made)
                for row in names
            }
            for name in ran
        },
        "ratio_to_best_of_llama_cpp": {
            name: ratios(name) for name in (KERNELS, INT8) if name in ran
        },
        "settings": {
            name: found["speeds"]
            for (turn, name), found in runs.kept.items()
            if turn == "settings" and "failed" not in found
        },
        "load_seconds": each("load_seconds"),
        "peak_rss_mb": each("peak_rss_mb"),
    }


def table(names: Sequence[str], result: dict[str, Any]) -> list[str]:
    """Return the lines of the table, in tokens a second."""
    speeds, ratios = result["tokens_per_second"], result["ratio_to_best_of_llama_cpp"]
    columns = [name for name in (KERNELS, INT8, STOCK) if name in speeds]
    header = "".join(f"{name.removeprefix('trtcoder, ')[:12]:>14}" for name in columns)
    lines = [f"{'':<22}{header}{'llama.cpp':>12}{'ratio':>8}{'limit':>9}  best setting"]
    for row in names:
        best = max(filter(_is_peer, speeds), key=lambda name: speeds[name][row])
        cells = "".join(f"{speeds[name][row]:>14.2f}" for name in columns)
        lines.append(
            f"{row:<22}{cells}{speeds[best][row]:>12.2f}{ratios[KERNELS][row]:>8.2f}"
            f"{result['limits'][row]['share']:>8.0%}   {_label(best)}"
        )
    return lines


def _label(name: str) -> str:
    return name.removeprefix("llama.cpp ")


def _is_peer(name: str) -> bool:
    return name.startswith("llama.cpp")


def _has_amx() -> bool:
    return "amx_int8" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
