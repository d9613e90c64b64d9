"""opencode, which speaks `/v1/chat/completions` and asks for a title beside."""

from __future__ import annotations

import json
from pathlib import Path

from tests.clients.client import Client
from tests.clients.drivers.agents import PROMPT, write_a_file
from tests.clients.package import Package
from tests.clients.session import SCRIPTED, Session
from tests.runtime.server.serving import Server

PACKAGE = Package("npm", "opencode-ai", "1.18.33")


def run(session: Session) -> None:
    """Have a command run."""

    def ask(server: Server, repository: Path) -> str:
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"{server.address}/v1", "apiKey": "none"},
            "models": {SCRIPTED: {"name": SCRIPTED}},
        }
        found = {"provider": {"trtcoder": provider}, "model": f"trtcoder/{SCRIPTED}"}
        (repository / "opencode.json").write_text(json.dumps(found))
        return session.run(PACKAGE.program("opencode"), "run", PROMPT, cwd=repository)

    write_a_file(session, "bash", "command", ask)


CLIENT = Client(
    "opencode",
    PACKAGE,
    PACKAGE.version,
    ("/v1/chat/completions",),
    "a session whose shell command runs and whose result is answered",
    run,
)
