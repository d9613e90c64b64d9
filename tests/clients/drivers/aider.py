"""aider, which speaks `/v1/chat/completions` and edits what the answer lists."""

from __future__ import annotations

from tests.clients.client import Client
from tests.clients.package import Package
from tests.clients.session import ANSWER, SCRIPTED, ClientError, Session

PACKAGE = Package("pip", "aider-chat", "0.86.2")
EDITED = "print(2)\n"


def run(session: Session) -> None:
    """Have a file edited and committed."""
    repository = session.repository()
    with session.scripted({ANSWER: f" app.py\n```\n{EDITED}```\n"}) as server:
        said = session.run(
            PACKAGE.program("aider"), "--model", f"openai/{SCRIPTED}",
            "--no-show-model-warnings", "--no-check-update", "--no-analytics", "--yes-always",
            "--no-gitignore", "--message", "Print two.", "app.py",
            cwd=repository,
            OPENAI_API_BASE=f"{server.address}/v1",
            OPENAI_API_KEY="none",
        )  # fmt: skip
    if (repository / "app.py").read_text() != EDITED:
        raise ClientError(f"the file was not edited:\n{said[-2000:]}")
    commits = session.run("git", "log", "--oneline", cwd=repository).splitlines()
    if len(commits) != 2:
        raise ClientError(f"the edit was not committed:\n{said[-2000:]}")


CLIENT = Client(
    "aider",
    PACKAGE,
    PACKAGE.version,
    ("/v1/chat/completions",),
    "a file is edited and committed",
    run,
)
