"""`trtcoder report`: an engine's certificate as a page."""

from __future__ import annotations

from pathlib import Path

import click

from trtcoder.commands.terminal import show, show_bytes


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The page's file, or - for standard output.  [default: ENGINE's name with .report.html, "
    "in this folder]",
)
@click.option(
    "--no-drawings",
    is_flag=True,
    help="Only the text and the tables, for which matplotlib is not needed.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def report(engine: Path, out: Path | None, no_drawings: bool, force: bool) -> None:
    """Write the certificate of ENGINE as one HTML page, to read or to print.

    ENGINE is an engine folder, or a certificate that a failed build or `verify` left. The page
    needs no network and no scripts.
    """
    from trtcoder.commands.needs import require_report
    from trtcoder.output_file import OutputFile
    from trtcoder.report.certified import CertifiedEngine

    require_report(drawings=not no_drawings)
    found = CertifiedEngine.open(engine)
    if str(out) == "-":
        target = None
    else:
        path = Path(f"{found.name}.report.html") if out is None else out
        target = OutputFile.check(path, "--out", force=force, inputs=[engine])
    from trtcoder.report.page import render

    page = render(found, drawings=not no_drawings)
    if target is None:
        # The page says of itself that it is UTF-8.
        show_bytes(page.encode())
        return
    target.write(page)
    show(f"written to {target.path}")
