"""Claude Code, which speaks `/v1/messages`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.clients.client import Client
from tests.clients.drivers.agents import PROMPT, write_a_file
from tests.clients.package import Package
from tests.clients.session import SCRIPTED, ClientError, Session
from tests.runtime.server.serving import Server

PACKAGE = Package("npm", "@anthropic-ai/claude-code", "2.1.332")


def run(session: Session) -> None:
    """Have a command run."""

    def ask(server: Server, repository: Path) -> str:
        said = session.run(
            PACKAGE.program("claude"), "-p", PROMPT, "--output-format", "json",
            "--permission-mode", "bypassPermissions",
            cwd=repository,
            ANTHROPIC_BASE_URL=server.address,
            ANTHROPIC_AUTH_TOKEN="none",
            ANTHROPIC_MODEL=SCRIPTED,
            ANTHROPIC_SMALL_FAST_MODEL=SCRIPTED,
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            IS_SANDBOX="1",
        )  # fmt: skip
        result = json.loads(said)
        if result["is_error"] or not result["usage"]["output_tokens"]:
            raise ClientError(said)
        return str(result["result"])

    write_a_file(session, "Bash", "command", ask)


CLIENT = Client(
    "claude-code",
    PACKAGE,
    PACKAGE.version,
    ("/v1/messages",),
    "a session whose shell command runs and whose result is answered",
    run,
)
