"""Trains, exports and evaluates: `python -m demo.recipe --minutes 76`."""

from __future__ import annotations

import json

import click

from demo.recipe import builtin_text, export
from demo.recipe.evaluate import evaluate
from demo.recipe.train import train


@click.command()
@click.option("--minutes", default=76.0, show_default=True, help="Training time in all.")
def main(minutes: float) -> None:
    """Make the demo checkpoint from nothing; an interrupted training goes on where it was."""
    train(minutes)
    export.export()
    builtin_text.write_all()
    for kind, figures in evaluate().items():
        print(f"{kind:10} {json.dumps(figures)}")


if __name__ == "__main__":
    main()
