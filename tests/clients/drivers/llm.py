"""simonw/llm."""

from __future__ import annotations

from tests.clients.client import Client
from tests.clients.drivers.sdk import PREFIX, QUESTION, TOKENS, offline_chat, same
from tests.clients.package import Package
from tests.clients.session import DEMO_ENGINE, Session
from trtcoder import LLM

PACKAGE = Package("pip", "llm", "0.36")
CONFIGURATION = """\
- model_id: chat
  model_name: {model}
  api_base: {address}/v1
- model_id: completion
  model_name: {model}
  api_base: {address}/v1
  completion: true
"""


def run(session: Session) -> None:
    """Ask for a chat whole and streamed, its next turn, and a completion without a limit."""
    with session.demo("--deterministic", "--max-answer-tokens", str(TOKENS)) as server:
        model = server.client.get("/v1/models").json()["data"][0]["id"]
        folder = session.work / "llm"
        folder.mkdir()
        text = CONFIGURATION.format(model=model, address=server.address)
        (folder / "extra-openai-models.yaml").write_text(text)

        def llm(*arguments: str) -> str:
            return session.run(
                PACKAGE.program("llm"), *arguments, LLM_USER_PATH=str(folder), OPENAI_API_KEY="none"
            )

        greedy = ("-o", "temperature", "0")
        expected = offline_chat().rstrip()
        same("the streamed answer", llm("-m", "chat", *greedy, QUESTION).rstrip(), expected)
        whole = llm("-m", "chat", "--no-stream", *greedy, QUESTION)
        same("the answer", whole.rstrip(), expected)
        assert llm("--continue", "-m", "chat", *greedy, "And now in one line.").strip()
        completed = llm("-m", "completion", *greedy, PREFIX)
        with LLM(DEMO_ENGINE) as offline:
            (output,) = offline.generate(PREFIX, max_tokens=TOKENS, temperature=0.0)
        # It writes a line break behind an answer.
        same("the completion", completed.rstrip(), output.outputs[0].text.rstrip())


CLIENT = Client(
    "llm",
    PACKAGE,
    PACKAGE.version,
    ("/v1/chat/completions", "/v1/completions"),
    "chat streamed and whole as offline, its next turn, a completion without a limit",
    run,
)
