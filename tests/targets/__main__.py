"""Build quantized checkpoints and engines for GPUs, let readers read them, and print the table."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import click

from tests.clients.package import install_missing
from tests.targets.reader import Outcome, read
from tests.targets.readers import READERS
from tests.targets.samples import GROUPS, KINDS, prepare

ROOT = Path("engines/targets")


@click.command()
@click.option("--only", multiple=True, help="A reader by name. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an outcome.")
def main(only: tuple[str, ...], as_json: bool) -> None:
    """Let readers that are not ours read what `trtcoder build` writes for GPU servers."""
    unknown = sorted(set(only) - READERS.keys())
    if unknown:
        raise click.UsageError(f"no reader {unknown[0]}; there is {', '.join(READERS)}")
    chosen = [reader for name, reader in READERS.items() if not only or name in only]
    install_missing(reader.package for reader in chosen)
    ROOT.mkdir(parents=True, exist_ok=True)
    click.echo("building", err=True)
    outcomes = []
    for sample in prepare(ROOT, dict.fromkeys(reader.group for reader in chosen)):
        for reader in (each for each in chosen if each.group == sample.group):
            click.echo(f"{reader.name}: {sample.kind} {sample.form}", err=True)
            with tempfile.TemporaryDirectory() as scratch:
                outcome = read(reader, sample, Path(scratch))
            outcomes.append(outcome)
            if outcome.problem:
                click.echo(f"failed: {outcome.problem}", err=True)
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(outcome)))
    if not as_json:
        click.echo(table(outcomes))
    raise SystemExit(1 if any(outcome.problem for outcome in outcomes) else 0)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a table in Markdown, a row for each form and reader."""
    rows = [
        "| form | reader | demo | Lite's kind | 236B's kind |",
        "| --- | --- | --- | --- | --- |",
    ]
    by_place = {(each.form, each.reader, each.kind): each for each in outcomes}
    for form in (form for forms in GROUPS.values() for form in forms):
        for reader in dict.fromkeys(each.reader for each in outcomes):
            found = [by_place.get((form, reader, kind)) for kind in KINDS]
            told = [each for each in found if each is not None]
            if not told or all(each.result.endswith("only") for each in told):
                continue
            cells = ["widths do not fit" if each is None else shown(each) for each in found]
            rows.append(f"| {form} | {reader} {told[0].version} | {' | '.join(cells)} |")
    return "\n".join(rows)


def shown(outcome: Outcome) -> str:
    """Return an outcome's cell."""
    return f"**failed**: {outcome.problem}" if outcome.problem else outcome.result


if __name__ == "__main__":
    main()
