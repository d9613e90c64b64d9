"""`trtcoder diff`: the certificates of two engines side by side."""

from __future__ import annotations

from pathlib import Path

import click

from trtcoder.commands.terminal import print_json, show


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option(
    "--across-checkpoints", is_flag=True, help="Compare engines of different checkpoints too."
)
@click.option("--json", "as_json", is_flag=True, help="Print all differences as JSON.")
def diff(first: Path, second: Path, across_checkpoints: bool, as_json: bool) -> None:
    """Compare the certificates of the engines A and B.

    Each is an engine folder, or a certificate that a failed build or `verify` left. Nothing runs:
    the numbers are those of the builds.
    """
    from trtcoder.report.certified import CertifiedEngine
    from trtcoder.report.difference import compare
    from trtcoder.report.difference_table import render

    found = compare(
        CertifiedEngine.open(first),
        CertifiedEngine.open(second),
        across_checkpoints=across_checkpoints,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        show(render(found))
