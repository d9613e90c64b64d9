"""Continue's command line, which speaks `/v1/chat/completions`."""

from __future__ import annotations

from pathlib import Path

from tests.clients.client import Client
from tests.clients.drivers.agents import PROMPT, write_a_file
from tests.clients.package import Package
from tests.clients.session import SCRIPTED, Session
from tests.runtime.server.serving import Server

PACKAGE = Package("npm", "@continuedev/cli", "1.5.47")
CONFIGURATION = """\
name: trtcoder
version: 0.0.1
schema: v1
models:
  - name: trtcoder
    provider: openai
    model: {model}
    apiBase: {address}/v1
    apiKey: none
    roles: [chat, edit, apply, autocomplete]
"""


def run(session: Session) -> None:
    """Have a command run."""

    def ask(server: Server, repository: Path) -> str:
        path = session.work / "config.yaml"
        path.write_text(CONFIGURATION.format(model=SCRIPTED, address=server.address))
        return session.run(
            PACKAGE.program("cn"), "--config", path, "-p", "--auto", PROMPT,
            cwd=repository, CONTINUE_TELEMETRY_ENABLED="0",
        )  # fmt: skip

    write_a_file(session, "Bash", "command", ask)


CLIENT = Client(
    "continue",
    PACKAGE,
    PACKAGE.version,
    ("/v1/chat/completions",),
    "a session whose shell command runs and whose result is answered",
    run,
)
