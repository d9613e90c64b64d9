"""What libraries are asked of the demo engine, and what must come."""

from __future__ import annotations

from tests.clients.session import DEMO_ENGINE, ClientError
from trtcoder import LLM

QUESTION = "Write a function that returns the n-th Fibonacci number."
PREFIX, SUFFIX = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"
TOKENS = 48
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Bonn", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def offline_chat() -> str:
    """Return what the engine answers to QUESTION without a server, greedily."""
    with LLM(DEMO_ENGINE) as llm:
        (output,) = llm.chat(
            [{"role": "user", "content": QUESTION}], max_tokens=TOKENS, temperature=0.0
        )
    return output.outputs[0].text


def offline_fill() -> str:
    """Return what the engine fills between PREFIX and SUFFIX without a server, greedily."""
    with LLM(DEMO_ENGINE) as llm:
        (output,) = llm.fill((PREFIX, SUFFIX), max_tokens=TOKENS, temperature=0.0)
    return output.outputs[0].text


def same(what: str, found: object, expected: object) -> None:
    """Raise ClientError where ``found`` is something else than ``expected``."""
    if found != expected:
        raise ClientError(f"{what}: expected {expected!r}, found {found!r}")
