"""Questions whose answers are known, and a client that asks them in every dialect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENS = 4
HEAD = (
    "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    "content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Question:
    """A request and the text that the library gives offline."""

    path: str
    body: dict[str, Any]
    answer: str

    def request(self, **more: Any) -> bytes:
        """Return the bytes of an HTTP request."""
        data = json.dumps({**self.body, **more}).encode()
        return HEAD.format(path=self.path, length=len(data)).encode() + data


def questions(
    engine: Path, *, tokens: int = TOKENS, count: int = 24, length: int = 200
) -> list[Question]:
    """Return completions, middles and chats of prompts of ``length`` characters.

    Their answers are computed here, one at a time.
    """
    from trtcoder import LLM, SamplingParams
    from trtcoder.calib.text.examples import read_built_in
    from trtcoder.runtime.engine.settings import EngineSettings

    texts = [each["text"] for each in read_built_in("heldout") if each["kind"] == "plain"]
    greedy: dict[str, Any] = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    found = []
    settings = EngineSettings(max_batch=1, prefix_cache=False, context=2048)
    with LLM(engine, settings=settings, verify_hashes=False) as llm:
        for index in range(count):
            text = texts[index % len(texts)]
            start = 40 * (index // len(texts))
            prompt = text[start : start + length]
            suffix = text[start + length + 40 :][:length]
            answer = llm.generate([prompt], params, progress=False)[0].outputs[0].text
            found.append(Question("/v1/completions", {"prompt": prompt, **greedy}, answer))
            answer = llm.fill((prompt, suffix), params)[0].outputs[0].text
            hole = {"input_prefix": prompt, "input_suffix": suffix, "n_predict": tokens}
            fixed = {"temperature": 0, "ignore_eos": True}
            found.append(Question("/infill", {**hole, **fixed}, answer))
            messages = [{"role": "user", "content": prompt}]
            answer = llm.chat(messages, params)[0].outputs[0].text
            found.append(Question("/v1/chat/completions", {"messages": messages, **greedy}, answer))
    return found


def text_of(path: str, data: Any) -> str:
    """Return the text of a whole answer, or of one event of a stream."""
    if path == "/infill":
        return str(data.get("content") or "")
    parts = []
    for choice in data.get("choices", ()):
        message = choice.get("delta") or choice.get("message") or {}
        parts.append(choice.get("text") or message.get("content") or "")
    return "".join(parts)


@dataclass(slots=True)
class Reply:
    """A status, 0 where none came, and the body."""

    status: int
    body: bytes

    def text(self, path: str, *, streamed: bool) -> str:
        """Return the answer's text."""
        if not streamed:
            return text_of(path, json.loads(self.body))
        lines = self.body.decode().splitlines()
        events = [line[6:] for line in lines if line.startswith("data: ") and "[DONE]" not in line]
        return "".join(text_of(path, json.loads(each)) for each in events)


async def exchange(
    port: int, send: Callable[[asyncio.StreamWriter], Awaitable[None]], *, seconds: float = 3600
) -> Reply:
    """Send what ``send`` writes; return the reply to the end of the connection.

    Raises:
        TimeoutError: the server neither answers nor closes.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = b""
        try:
            with suppress(ConnectionError):  # refused while it was still being sent
                await send(writer)
            data = await _rest(reader)
        finally:
            writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head else 0
    if b"transfer-encoding: chunked" in head.lower():
        body = _dechunked(body)
    return Reply(status, body)


async def ask(port: int, question: Question, *, streamed: bool, **more: Any) -> Reply:
    """Ask one question."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(question.request(stream=streamed, **more))
        await writer.drain()

    return await exchange(port, send)


async def metric(port: int, name: str) -> float:
    """Return one of the server's metrics, all engines together."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")

    lines = (await exchange(port, send)).body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


async def is_idle(port: int, seconds: float = 60) -> bool:
    """Wait until nothing runs and nobody waits; return whether every block is free then."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        names = ("requests_running", "requests_waiting", "cache_usage")
        if not any([await metric(port, f"trtcoder:{name}") for name in names]):
            return True
        await asyncio.sleep(0.1)
    return False


async def _rest(reader: asyncio.StreamReader) -> bytes:
    data = b""
    with suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            data += part
    return data


def _dechunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            break
        found, body = found + body[:count], body[count + 2 :]
    return found
