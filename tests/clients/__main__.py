"""Run clients against the server and tell how it went."""

from __future__ import annotations

import dataclasses
import json

import click

from tests.clients import loopback
from tests.clients.client import Outcome, run
from tests.clients.drivers import CLIENTS
from tests.clients.package import install_missing
from tests.clients.session import DEMO_ENGINE

COLUMNS = ("client", "version", "endpoint", "asked", "outcome", "seconds")


@click.command()
@click.option("--only", multiple=True, help="A client by name. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a client.")
def main(only: tuple[str, ...], as_json: bool) -> None:
    """Run real clients against a real server, on loopback alone."""
    unknown = sorted(set(only) - CLIENTS.keys())
    if unknown:
        raise click.UsageError(f"no client {unknown[0]}; there is {', '.join(CLIENTS)}")
    chosen = [client for name, client in CLIENTS.items() if not only or name in only]
    if not (DEMO_ENGINE / "manifest.json").exists():
        raise click.ClickException(f"there is no {DEMO_ENGINE}; run make demo")
    if not loopback.is_inside():
        install_missing(client.package for client in chosen)
    loopback.enter()
    outcomes = []
    for client in chosen:
        click.echo(f"running {client.name}", err=True)
        outcome = run(client)
        outcomes.append(outcome)
        if outcome.problem:
            click.echo(f"{client.name} failed: {outcome.problem}", err=True)
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(outcome)))
    if not as_json:
        click.echo(table(outcomes))
    raise SystemExit(1 if any(outcome.problem for outcome in outcomes) else 0)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a table in Markdown."""
    rows = [COLUMNS, ("---",) * (len(COLUMNS) - 1) + ("---:",)]
    for each in outcomes:
        endpoints = ", ".join(f"`{path}`" for path in each.endpoints)
        result = f"failed: {each.problem.splitlines()[0]}" if each.problem else "ok"
        rows.append(
            (each.client, each.version, endpoints, each.asked, result, f"{each.seconds:.1f}")
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
