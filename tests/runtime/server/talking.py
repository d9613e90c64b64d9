"""Toy engines that have room for tools, and that answer a conversation as a script says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.toy_engine import EOS, byte_tokenizer, script, toy_manifest, write_toy_engine
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.server.tools.spelling import as_messages, call_text
from trtcoder.runtime.server.tools.tool import ToolBox, ToolCall
from trtcoder.runtime.server.tools.turn import Turn

TOKENIZER = TextTokenizer(byte_tokenizer())
# With this temperature the toy's logits, of many thousands, choose anything.
HOT = 1e6
TALK: Any = [{"role": "user", "content": "x"}]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "",
    "schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Bonn", "Köln"]}, "days": {"enum": [1, 2]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CLOCK: dict[str, Any] = {
    "name": "clock",
    "description": "",
    "schema": {"type": "object", "properties": {}, "additionalProperties": False},
}


def openai_tools(*tools: dict[str, Any]) -> Any:
    return [
        {"type": "function", "function": {"name": each["name"], "parameters": each["schema"]}}
        for each in tools
    ]


def flat_tools(*tools: dict[str, Any]) -> Any:
    return [
        {"type": "function", "name": each["name"], "parameters": each["schema"], "strict": False}
        for each in tools
    ]


def anthropic_tools(*tools: dict[str, Any]) -> Any:
    return [{"name": each["name"], "input_schema": each["schema"]} for each in tools]


def fits(name: str, arguments: Any) -> bool:
    """Return whether a call is one of the tools above with arguments that fit."""
    if name == "clock":
        return bool(arguments == {})
    return (
        name == "weather"
        and arguments.get("city") in ("Bonn", "Köln")
        and set(arguments) <= {"city", "days"}
        and arguments.get("days", 1) in (1, 2)
    )


def call(name: str, arguments: Any) -> str:
    """Return a call as the model writes it."""
    return call_text(ToolCall("", name, json.dumps(arguments, ensure_ascii=False)))


@dataclasses.dataclass(frozen=True)
class Spoken:
    """What a scripted engine answers, and what of it is text and what calls."""

    answer: str
    text: str
    calls: list[tuple[str, Any]]


# By the name of the engine.
SPOKEN = {
    "text": Spoken("Hello <b>.", "Hello <b>.", []),
    "call": Spoken(call("clock", {}), "", [("clock", {})]),
    "both": Spoken(
        f"I look.\n{call('weather', {'city': 'Köln'})}",
        "I look.",
        [("weather", {"city": "Köln"})],
    ),
    "calls": Spoken(
        f"{call('weather', {'city': 'Bonn', 'days': 2})}\n{call('clock', {})}",
        "",
        [("weather", {"city": "Bonn", "days": 2}), ("clock", {})],
    ),
}


def roomy_engine(
    folder: Path,
    answer: str | None = None,
    *,
    turns: Sequence[Turn] = (Turn("user", "x"),),
    tools: Sequence[dict[str, Any]] = (),
    chat: bool = True,
    name: str = "Toy",
) -> Path:
    """Write a toy engine, which gives ``answer`` to the conversation ``turns`` with ``tools``."""
    manifest = toy_manifest(chat=chat)
    model = dataclasses.replace(manifest.model, name=name, max_positions=2048)
    manifest = dataclasses.replace(manifest, model=model)
    scripted = {}
    if answer is not None:
        box = ToolBox.of(openai_tools(*tools))
        prompt = Prompts(manifest, TOKENIZER).chat(as_messages(turns, box.offered))
        scripted = script(len(prompt), [*TOKENIZER.encode(f" {answer}"), EOS])
    return write_toy_engine(folder, manifest, scripted=scripted)
