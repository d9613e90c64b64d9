"""A replica's answers are the server's own, without a socket and without Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.toy_engine import toy_manifest, write_toy_engine
from trtcoder import LLM, SamplingParams
from trtcoder.errors import EngineError
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.ray.call import Call, Head
from trtcoder.runtime.ray.replica import Replica
from trtcoder.runtime.server.settings import ServerSettings

NAME = "deepseek-toy"
SERVER = ServerSettings(host="0.0.0.0", insecure=True, page=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = dataclasses.replace(toy_manifest().model, max_positions=20_000)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    return write_toy_engine(tmp_path_factory.mktemp("toy") / "engine", manifest)


@pytest.fixture
def replica(folder: Path) -> Iterator[Replica]:
    made = Replica({NAME: folder}, SERVER, EngineSettings())
    yield made
    for loaded in made._apps.values():
        loaded.close()


def call(path: str = "/v1/completions", method: str = "POST", **body: Any) -> Call:
    scope = {"method": method, "path": path, "headers": [(b"content-type", b"application/json")]}
    return Call.of(scope, json.dumps(body).encode() if method == "POST" else b"")


async def whole(replica: Replica, asked: Call) -> tuple[Head, list[bytes]]:
    head, *body = [piece async for piece in replica(asked)]
    assert isinstance(head, Head)
    return head, [piece for piece in body if isinstance(piece, bytes)]


def test_an_answer_is_the_librarys_whole_and_streamed(replica: Replica, folder: Path) -> None:
    with LLM(folder) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        expected = llm.generate("ab", params)[0].outputs[0].text
    body: dict[str, Any] = {"prompt": "ab", "temperature": 0, "max_tokens": 8, "ignore_eos": True}
    head, pieces = asyncio.run(whole(replica, call(**body)))
    assert head.status == 200
    assert json.loads(b"".join(pieces))["choices"][0]["text"] == expected
    head, pieces = asyncio.run(whole(replica, call(**body, stream=True)))
    assert head.value(b"content-type").startswith(b"text/event-stream")
    data = [line[6:] for line in b"".join(pieces).decode().splitlines() if line[:6] == "data: "]
    assert data.pop() == "[DONE]"
    assert "".join(json.loads(each)["choices"][0]["text"] for each in data) == expected


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (call(max_tokens=-1, prompt="a"), 400),
        (call("/v1/nowhere"), 404),
        (call(model="another", prompt="a"), 404),
        (call("/health/ready", "GET"), 200),
        (call("/v1/models", "GET"), 200),
    ],
    ids=["bad parameter", "no such path", "no such model", "ready", "models"],
)
def test_every_path_answers_as_over_a_socket(replica: Replica, asked: Call, status: int) -> None:
    head, pieces = asyncio.run(whole(replica, asked))
    assert head.status == status
    assert isinstance(json.loads(b"".join(pieces)), dict)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reader_who_leaves_ends_the_request(replica: Replica, stream: bool) -> None:
    core = replica._apps[NAME].engines.all()[0].llm.engine.thread.core
    long = call(prompt="a", max_tokens=15_000, ignore_eos=True, stream=stream)

    async def leave() -> None:
        async with aclosing(replica(long)) as pieces:  # type: ignore[type-var]
            if stream:
                await anext(pieces)
                await anext(pieces)
            else:
                first = asyncio.ensure_future(anext(pieces))
                while not core.has_work and not first.done():
                    await asyncio.sleep(0.001)
                assert not first.done(), first.result()
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first

    asyncio.run(leave())
    for _ in range(2000):
        if not core.has_work:
            break
        asyncio.run(asyncio.sleep(0.005))
    assert not core.has_work
    assert core.stats.generated_tokens < 15_000


def test_of_several_engines_one_is_there_as_long_as_it_is_held(folder: Path) -> None:
    made = Replica({NAME: folder, "another": folder}, SERVER, EngineSettings())
    loaded = made._open("another")
    assert made._apps["another"] is loaded
    assert loaded.problem() is None
    thread = loaded.engines.all()[0].llm.engine.thread
    del loaded
    assert not made._apps
    assert not thread.is_alive


def test_a_replica_whose_engine_has_ended_says_so(folder: Path) -> None:
    made = Replica({NAME: folder}, SERVER, EngineSettings())
    made.check_health()
    made._apps[NAME].engines.all()[0].llm.close()
    with pytest.raises(EngineError, match="has ended"):
        made.check_health()


def test_an_engine_that_is_put_aside_ends_after_its_requests(folder: Path) -> None:
    made = Replica({NAME: folder}, SERVER, EngineSettings())
    loaded = made._apps[NAME]
    body: dict[str, Any] = {"prompt": "a", "max_tokens": 200, "ignore_eos": True}

    async def close_meanwhile() -> tuple[Head, list[bytes]]:
        answer = asyncio.create_task(whole(made, call(**body)))
        while not loaded.engines.all()[0].llm.engine.thread.core.has_work:
            await asyncio.sleep(0)
        await asyncio.to_thread(loaded.close)
        return await answer

    head, pieces = asyncio.run(close_meanwhile())
    assert head.status == 200
    assert json.loads(b"".join(pieces))["usage"]["completion_tokens"] == 200
