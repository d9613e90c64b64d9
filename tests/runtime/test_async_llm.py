from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.toy_engine import BOS, write_toy_engine
from trtcoder import LLM, AsyncLLM
from trtcoder.errors import RequestError
from trtcoder.runtime.engine.settings import EngineSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_engine(tmp_path_factory.mktemp("toy") / "engine")


def test_many_requests_of_one_loop_give_what_they_give_alone(folder: Path) -> None:
    with LLM(folder) as llm:
        prompts = [[BOS, token] for token in range(20)]
        expected = [output.outputs[0].text for output in llm.generate(prompts, max_tokens=6)]

    async def ask() -> list[str]:
        async with await AsyncLLM.open(folder) as engine:
            outputs = await asyncio.gather(
                *(engine.generate(prompt, max_tokens=6) for prompt in prompts)
            )
            chat = await engine.chat([{"role": "user", "content": "hi"}], max_tokens=2)
            assert len(chat.outputs[0].token_ids) == 2
            assert len((await engine.fill("a", "b", max_tokens=3)).outputs[0].token_ids) == 3
            return [output.outputs[0].text for output in outputs]

    assert asyncio.run(ask()) == expected


def test_chunks_come_as_they_are_sampled_and_closing_ends_them(folder: Path) -> None:
    async def ask() -> None:
        async with await AsyncLLM.open(folder) as engine:
            generation = engine.stream("hello", ignore_eos=True)
            async for _ in generation:
                break
            generation.close()
            assert generation.finish_reason == "cancelled"
            assert [chunk async for chunk in generation] == []
            core = engine.llm.engine.thread.core
            assert not engine.llm.engine.thread.call(lambda: core.has_work).result()

    asyncio.run(ask())


def test_a_task_that_is_cancelled_ends_its_request(folder: Path) -> None:
    async def ask() -> None:
        settings = EngineSettings(max_batch=1)
        async with await AsyncLLM.open(folder, settings) as engine:
            task = asyncio.create_task(engine.generate("a", ignore_eos=True, n=50))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            core = engine.llm.engine.thread.core
            assert not engine.llm.engine.thread.call(lambda: core.has_work).result()

    asyncio.run(ask())


def test_a_bad_request_is_refused_before_it_is_queued(folder: Path) -> None:
    async def ask() -> None:
        async with await AsyncLLM.open(folder) as engine:
            with pytest.raises(RequestError, match="temperature is -1"):
                engine.stream("a", temperature=-1)

    asyncio.run(ask())
