"""OpenAI's Codex, which speaks `/v1/responses`."""

from __future__ import annotations

from pathlib import Path

from tests.clients.client import Client
from tests.clients.drivers.agents import PROMPT, write_a_file
from tests.clients.package import Package
from tests.clients.session import SCRIPTED, Session
from tests.runtime.server.serving import Server

PACKAGE = Package("npm", "@openai/codex", "0.169.0")
CONFIGURATION = """\
model = "{model}"
model_provider = "trtcoder"

[model_providers.trtcoder]
name = "trtcoder"
base_url = "{address}/v1"
wire_api = "responses"
"""


def run(session: Session) -> None:
    """Have a command run, without a sandbox in the sandbox that this is."""

    def ask(server: Server, repository: Path) -> str:
        folder = session.home / ".codex"
        folder.mkdir()
        text = CONFIGURATION.format(model=SCRIPTED, address=server.address)
        (folder / "config.toml").write_text(text)
        return session.run(
            PACKAGE.program("codex"), "exec", "--json",
            "--dangerously-bypass-approvals-and-sandbox", PROMPT, cwd=repository,
        )  # fmt: skip

    write_a_file(session, "exec_command", "cmd", ask)


CLIENT = Client(
    "codex",
    PACKAGE,
    PACKAGE.version,
    ("/v1/responses",),
    "a session whose shell command runs and whose result is answered",
    run,
)
