"""`trtcoder report`: an engine's certificate as a page."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from trtcoder.errors import RequestError


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The page's file.  [default: ENGINE's name with .report.html, in this folder]",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def report(engine: Path, out: Path | None, force: bool) -> None:
    """Write the certificate of ENGINE as one HTML page, to read or to print.

    ENGINE is an engine folder, or a certificate that a failed build or `verify` left. The page
    needs no network and no scripts.
    """
    from trtcoder.report.certified import CertifiedEngine
    from trtcoder.report.page import render

    found = CertifiedEngine.open(engine)
    target = Path(f"{found.name}.report.html") if out is None else out
    refuse_existing(target, force)
    page = render(found)
    write(target, page)
    click.echo(f"written to {target}")


def refuse_existing(target: Path, force: bool) -> None:
    """Raise RequestError when the target may not be written."""
    # os.path, whose answer to a name that cannot be asked about is no, not an OSError.
    if os.path.isdir(target):
        raise RequestError(f"{target}: is a folder; give a file with --out")
    if not force and os.path.lexists(target):
        raise RequestError(f"{target}: exists; pass --force to replace it, or --out another file")


def write(target: Path, page: str) -> None:
    """Write the page so that the target holds all of it or what it held before."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8", newline="\n")
        os.replace(partial, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise RequestError(
            f"{target}: cannot be written ({error.strerror}); give another file with --out"
        ) from error
