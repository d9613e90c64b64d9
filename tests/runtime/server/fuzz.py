"""Requests that schemathesis makes from the OpenAPI document, right ones and wrong ones.

All of its checks are on but one. `positive_data_acceptance` wants every body of the right form to
be answered, and no schema says what fits an engine: its names, vocabulary and context, the forms
that can be held, and what goes together.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import click

from tests.runtime.server.serving import Server, serve
from tests.runtime.server.talking import roomy_engine

KEY = "secret"
THOROUGH = ("--phases", "coverage,fuzzing", "--max-examples", "150")
# Without a random seed, and in seconds.
SHORT = ("--phases", "fuzzing", "--max-examples", "8", "--generation-deterministic")


def run(server: Server, folder: Path, options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run it in ``folder`` against a server whose key is KEY; the status is 0 without a failure."""
    # The document is made when it is first asked for, and schemathesis waits ten seconds for it.
    headers = {"authorization": f"Bearer {KEY}"}
    server.client.get("/openapi.json", headers=headers).raise_for_status()
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "run", f"{server.address}/openapi.json", "--checks", "all"]
    command += ["--exclude-checks", "positive_data_acceptance", "--continue-on-failure"]
    command += ["--header", f"Authorization: Bearer {KEY}", "--request-timeout", "60", "--no-color"]
    command += ["--output-sanitize", "false", "--warnings", "off"]
    # They judge how fast and how large data is made, which a busy machine fails.
    command += ["--suppress-health-check", "all", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def serve_with_key(folder: Path) -> AbstractContextManager[Server]:
    """Serve a toy engine that asks for KEY and gives short answers."""
    (folder / "keys").write_text(f"{KEY}\n")
    options = ("--api-key-file", str(folder / "keys"), "--max-answer-tokens", "8")
    return serve(roomy_engine(folder / "engine"), folder, *options)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(options: tuple[str, ...]) -> None:
    """Run it for minutes; OPTIONS go to `schemathesis run`."""
    with tempfile.TemporaryDirectory() as work, serve_with_key(Path(work)) as server:
        done = run(server, Path(work), (*THOROUGH, *options))
    click.echo(done.stdout + done.stderr)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
