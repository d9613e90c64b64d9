"""Ollama's library for Python."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from ollama import Client as Ollama

from tests.clients.client import Client
from tests.clients.drivers.sdk import (
    PREFIX,
    QUESTION,
    SUFFIX,
    TOKENS,
    WEATHER,
    offline_chat,
    offline_fill,
    same,
)
from tests.clients.session import Session


def run(session: Session) -> None:
    """Ask for a chat whole and streamed, a middle, and JSON that fits a schema."""
    with session.demo("--deterministic") as server, Ollama(host=server.address) as client:
        model = client.list().models[0].model
        assert model is not None
        assert "insert" in (client.show(model).capabilities or ())
        messages = [{"role": "user", "content": QUESTION}]
        options = {"num_predict": TOKENS, "temperature": 0}
        asked: dict[str, Any] = {"model": model, "messages": messages, "options": options}
        text = client.chat(**asked).message.content
        same("the answer", text, offline_chat())
        pieces = list(client.chat(**asked, stream=True))
        same("the streamed answer", "".join(each.message.content or "" for each in pieces), text)
        same("the count of tokens", pieces[-1].eval_count, client.chat(**asked).eval_count)
        filled = client.generate(model, PREFIX, suffix=SUFFIX, options=options)
        same("the middle", filled.response, offline_fill())
        held = client.chat(**asked, format=WEATHER).message.content
        assert json.loads(held or "")["city"] in ("Bonn", "Oslo")


CLIENT = Client(
    "ollama-python",
    None,
    version("ollama"),
    ("/api/tags", "/api/show", "/api/chat", "/api/generate"),
    "chat whole and streamed as offline, a middle, JSON that fits a schema",
    run,
)
