"""Many requests at once, and what became of each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from trtcoder import LLM, SamplingParams

MAX_TOKENS = 160
SAMPLING: dict[str, Any] = {"temperature": 0, "max_tokens": MAX_TOKENS, "ignore_eos": True}
# Longer than any router's block of text, and than the blocks of our cache; each begins otherwise.
_SUBJECTS = ("Lists", "Trees", "Graphs", "Words", "Sums", "Queues", "Maps", "Heaps")
_PREFIX = (
    "{0} are what this file is about, and {0} it is that all of its functions take and give.\n"
)


@dataclass(slots=True)
class Ask:
    """A request, and what came back.

    Attributes:
        prompt: that is continued.
        stream: whether the answer comes in pieces.
        text: that came.
        cached: tokens of the prompt that were in a cache.
        opened: whether the head of a stream had come.
        begun: whether a piece of the answer had come.
        whole: whether it came to its end.
        problem: why it did not.
    """

    prompt: str
    stream: bool = True
    text: str = ""
    cached: int = 0
    opened: bool = False
    begun: bool = False
    whole: bool = False
    problem: str = ""


@dataclass(slots=True)
class Tally:
    """What became of many requests beside the texts that the library gives."""

    asks: list[Ask]
    texts: dict[str, str] = field(repr=False)

    @property
    def lost(self) -> list[Ask]:
        """Those that did not come to their end."""
        return [ask for ask in self.asks if not ask.whole]

    @property
    def wrong(self) -> list[Ask]:
        """Those whose text is another one, or no beginning of it where it was cut."""
        return [
            ask
            for ask in self.asks
            if (ask.text != self.texts[ask.prompt] if ask.whole else not self._begins(ask))
        ]

    def _begins(self, ask: Ask) -> bool:
        return self.texts[ask.prompt].startswith(ask.text)

    def refuse_losses_but_of_streams(self) -> None:
        """Raise AssertionError where more was lost than what was streaming, or a text is wrong."""
        for ask in self.lost:
            assert ask.stream, f"a request that was not streaming is lost: {ask.problem}"
            assert ask.opened, f"a stream is lost before its head came: {ask.problem}"
        assert not self.wrong, f"a text differs: {self.wrong[0]}"


def group(number: int, count: int) -> list[str]:
    """Return ``count`` prompts that begin alike, and like no other group's."""
    prefix = _PREFIX.format(_SUBJECTS[number]) * 4
    return [f"{prefix}def task_{number}_{each}(" for each in range(count)]


def offline(engine: str, prompts: Sequence[str]) -> dict[str, str]:
    """Return the library's own texts."""
    with LLM(engine) as llm:
        outputs = llm.generate(list(prompts), SamplingParams(**SAMPLING))
    return {prompt: each.outputs[0].text for prompt, each in zip(prompts, outputs, strict=True)}


async def ask_all(
    address: str,
    asks: Sequence[Ask],
    *,
    meanwhile: Callable[[], None] | None = None,
    after: int = 0,
    model: str = "",
) -> None:
    """Send all requests at once; call ``meanwhile`` when ``after`` of them have begun to answer."""
    limits = httpx.Limits(max_connections=len(asks))
    begun = asyncio.Event()

    def on_begin() -> None:
        if sum(ask.begun for ask in asks) >= after:
            begun.set()

    async def interrupt() -> None:
        await begun.wait()
        if meanwhile is not None:
            await asyncio.to_thread(meanwhile)

    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        interrupting = asyncio.create_task(interrupt())
        await asyncio.gather(*(_ask(client, ask, model, on_begin) for ask in asks))
        begun.set()
        await interrupting


async def _ask(
    client: httpx.AsyncClient, ask: Ask, model: str, on_begin: Callable[[], None]
) -> None:
    body = {"prompt": ask.prompt, "stream": ask.stream, "model": model, **SAMPLING}
    try:
        if not ask.stream:
            answer = await client.post("/v1/completions", json=body)
            answer.raise_for_status()
            found = answer.json()
            ask.text = found["choices"][0]["text"]
            ask.cached = found["usage"]["prompt_tokens_details"]["cached_tokens"]
            ask.whole = True
            return
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                ask.problem = f"{answer.status_code}: {(await answer.aread()).decode()[:300]}"
                return
            ask.opened = True
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    ask.whole = True
                    return
                data = json.loads(line[6:])
                if "error" in data:
                    ask.problem = str(data["error"])
                    return
                ask.text += "".join(choice["text"] for choice in data["choices"])
                if not ask.begun:
                    ask.begun = True
                    on_begin()
        ask.problem = "the stream ended without its last event"
    except httpx.HTTPError as error:
        ask.problem = f"{type(error).__name__}: {error}"
