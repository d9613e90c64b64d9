"""Run other people's programs with our servers and tell how it went."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from tests.clients.package import Package, install_missing
from tests.clients.session import DEMO_ENGINE
from tests.scale import k8s, ray_serve, router

Seen = list[tuple[str, str]]
PARTS: dict[str, tuple[tuple[Package, ...], Callable[[Path], Seen]]] = {
    "router": ((router.PACKAGE,), router.run),
    "ray": ((ray_serve.PACKAGE,), ray_serve.run),
    "k8s": (k8s.PACKAGES, k8s.run),
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
def main(parts: tuple[str, ...]) -> None:
    """Run PARTS; all by default. What they need is installed in folders of its own."""
    chosen = parts or tuple(PARTS)
    if chosen != ("k8s",) and not (DEMO_ENGINE / "manifest.json").exists():
        raise click.ClickException(f"there is no {DEMO_ENGINE}; run make demo")
    for part in chosen:
        packages, run = PARTS[part]
        install_missing(packages)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="trtcoder-scale-") as work:
            for what, how in run(Path(work)):
                click.echo(f"{what}: {how}")
        click.echo(f"{part}: ok, {time.monotonic() - started:.0f} s", err=True)


if __name__ == "__main__":
    main()
