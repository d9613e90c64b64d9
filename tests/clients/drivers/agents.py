"""What agents are asked: to have a shell write a file, and to say when it is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.clients.session import AFTER_RESULT, ANSWER, ClientError, Session
from tests.runtime.server.serving import Server
from tests.runtime.server.talking import call

PROMPT = "Write hello to hello.txt."
COMMAND = "echo hello > hello.txt"


def write_a_file(
    session: Session, tool: str, argument: str, ask: Callable[[Server, Path], str]
) -> None:
    """Let an agent's tool run a command in a repository.

    Args:
        session: of the agent.
        tool, argument: the agent's name for its shell, and for the command of it.
        ask: runs the agent in a repository and returns what it prints.

    Raises:
        ClientError: the file was not written, or the second answer not shown.
    """
    script = {ANSWER: f" I write it.\n{call(tool, {argument: COMMAND})}", AFTER_RESULT: " Done."}
    repository = session.repository()
    with session.scripted(script) as server:
        said = ask(server, repository)
        cached = server.metric("trtcoder:prefix_cache_hits_total")
    written = repository / "hello.txt"
    if not written.exists() or written.read_text() != "hello\n":
        raise ClientError(f"the tool was not run:\n{said[-2000:]}")
    if "Done." not in said:
        raise ClientError(f"the answer to the tool's result is not shown:\n{said[-2000:]}")
    if cached < 1000:
        raise ClientError(f"the second turn found {cached} tokens of the first in the cache")
