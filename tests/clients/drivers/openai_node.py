"""OpenAI's library for Node."""

from __future__ import annotations

import json
from pathlib import Path

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
from tests.clients.package import Package
from tests.clients.session import Session

PACKAGE = Package("npm", "openai", "7.57.0")
SCRIPT = Path(__file__).with_name("openai_node.cjs")


def run(session: Session) -> None:
    """Run the script beside this module, and compare what it prints with the offline answers."""
    asked = {
        "question": QUESTION,
        "prefix": PREFIX,
        "suffix": SUFFIX,
        "tokens": TOKENS,
        "schema": WEATHER,
    }
    with session.demo("--deterministic") as server:
        said = session.run(
            "node", SCRIPT, json.dumps(asked),
            NODE_PATH=str(PACKAGE.folder / "node_modules"),
            OPENAI_BASE_URL=f"{server.address}/v1",
            OPENAI_API_KEY="none",
        )  # fmt: skip
    found = json.loads(said)
    text = offline_chat()
    same("the answer", found["whole"], text)
    same("the streamed answer", found["streamed"], text)
    same("the streamed usage", found["usage"], found["wholeUsage"])
    same("the middle", found["middle"], offline_fill())
    assert found["city"] in ("Bonn", "Oslo")


CLIENT = Client(
    "openai-node",
    PACKAGE,
    PACKAGE.version,
    ("/v1/models", "/v1/chat/completions", "/v1/completions"),
    "chat whole and streamed as offline, a middle, a call that a function answers",
    run,
)
