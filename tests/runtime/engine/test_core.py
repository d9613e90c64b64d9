from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_engine import (
    BOS,
    EOS,
    VOCAB,
    byte_tokenizer,
    expected_logits,
    toy_manifest,
    write_toy_engine,
)
from trtcoder.bundle.folder import Bundle
from trtcoder.errors import BusyError, EngineError, RequestError
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.job import Job
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.requests.events import (
    Cancelled,
    Chunk,
    Event,
    Failed,
    Progress,
    PromptLogprobs,
)
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams

TOKENIZER = TextTokenizer(byte_tokenizer())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = dataclasses.replace(toy_manifest().model, max_positions=256)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    return Bundle.load(write_toy_engine(tmp_path_factory.mktemp("toy") / "engine", manifest))


def open_core(bundle: Bundle, cache_tokens: int = 256, **settings: object) -> EngineCore:
    runner = ModelRunner(bundle, threads=1, cache_tokens=cache_tokens)
    return EngineCore(runner, TOKENIZER, EngineSettings(**settings))  # type: ignore[arg-type]


class Asked:
    """A request, and what was told of it."""

    def __init__(self, core: EngineCore, prompt: Sequence[int], **params: object) -> None:
        self.events: list[Event] = []
        request = Request(tuple(prompt), SamplingParams(**params))  # type: ignore[arg-type]
        self.job: Job = core.prepare(request, self.events.append)
        core.submit(self.job)

    @property
    def tokens(self) -> list[int]:
        found = [event.token for event in self.events if isinstance(event, Chunk)]
        return [token for token in found if token is not None]

    @property
    def ended(self) -> bool:
        return any(
            isinstance(event, Failed | Cancelled)
            or (isinstance(event, Chunk) and event.finish_reason is not None)
            for event in self.events
        )


def run(core: EngineCore) -> None:
    for _ in range(10_000):
        if not core.has_work:
            break
        core.step()
        core.scheduler.check()
    assert not core.has_work


def greedy(prompt: Sequence[int], count: int) -> list[int]:
    """What the toy engine answers, computed by hand."""
    sequence = list(prompt)
    for _ in range(count):
        sequence.append(int(np.argmax(expected_logits(sequence))))
        if sequence[-1] == EOS:
            break
    return sequence[len(prompt) :]


@settings(max_examples=40)
@given(
    prompts=st.lists(
        st.tuples(
            st.lists(st.sampled_from([1, 2, 97]), min_size=1, max_size=24),
            st.integers(1, 10),
            st.integers(0, 12),
        ),
        min_size=1,
        max_size=8,
    ),
    cache_blocks=st.integers(12, 40),
    max_batch=st.integers(1, 6),
    chunk=st.integers(16, 24),
    cancels=st.dictionaries(st.integers(0, 7), st.integers(0, 20), max_size=2),
)
def test_a_text_does_not_depend_on_what_else_is_asked(
    bundle: Bundle,
    prompts: list[tuple[list[int], int, int]],
    cache_blocks: int,
    max_batch: int,
    chunk: int,
    cancels: dict[int, int],
) -> None:
    # Alone, batched, in chunks, from the cache, after losing its blocks: always the same.
    core = open_core(bundle, 4 * cache_blocks, max_batch=max_batch, chunk=chunk)
    asked: dict[int, Asked] = {}
    for number in range(400):
        for index, (prompt, count, when) in enumerate(prompts):
            if when == number:
                asked[index] = Asked(core, [BOS, *prompt], max_tokens=count)
            if cancels.get(index) == number and index in asked:
                core.cancel(asked[index].job)
        core.step()
        core.scheduler.check()
        if len(asked) == len(prompts) and not core.has_work:
            break
    assert not core.has_work
    for index, (prompt, count, _) in enumerate(prompts):
        expected = greedy([BOS, *prompt], count)
        if index in cancels:
            assert asked[index].tokens == expected[: len(asked[index].tokens)]
        else:
            assert asked[index].tokens == expected
        assert asked[index].ended
    core.scheduler.cache.clear()
    assert core.scheduler.cache.num_available == cache_blocks


def test_concurrent_seeds_give_the_answers_that_they_give_alone(bundle: Bundle) -> None:
    def params(seed: int) -> dict[str, object]:
        return {"temperature": 3000.0, "seed": seed, "max_tokens": 12, "ignore_eos": True}

    alone = []
    for seed in range(5):
        core = open_core(bundle)
        alone.append(Asked(core, [BOS, 1, 2], **params(seed)))
        run(core)
    core = open_core(bundle)
    together = [Asked(core, [BOS, 1, 2], **params(seed)) for seed in range(5)]
    run(core)
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert len({tuple(each.tokens) for each in alone}) == 5


def test_several_answers_to_one_prompt_are_those_of_consecutive_seeds(bundle: Bundle) -> None:
    core = open_core(bundle)
    sampled = {"temperature": 3000.0, "max_tokens": 6, "ignore_eos": True}
    together = Asked(core, [BOS, *range(20)], n=3, seed=5, **sampled)
    run(core)
    for index in range(3):
        core = open_core(bundle)
        alone = Asked(core, [BOS, *range(20)], seed=5 + index, **sampled)
        run(core)
        found = [e.token for e in together.events if isinstance(e, Chunk) and e.index == index]
        assert found == alone.tokens
    assert together.job.usage.completion_tokens == 18


@pytest.mark.parametrize("moment", ["queued", "prefilling", "decoding"])
def test_a_cancelled_request_ends_at_once_and_its_blocks_come_back(
    bundle: Bundle, moment: str
) -> None:
    core = open_core(bundle, max_batch=1, chunk=16)
    other = Asked(core, [BOS, 3], max_tokens=5) if moment == "queued" else None
    asked = Asked(core, [BOS, *[1] * 60], max_tokens=50, ignore_eos=True)
    for _ in range({"queued": 1, "prefilling": 2, "decoding": 8}[moment]):
        core.step()
    assert (moment == "decoding") == bool(asked.tokens)
    assert (moment == "prefilling") == (
        any(isinstance(event, Progress) for event in asked.events) and not asked.tokens
    )
    core.cancel(asked.job)
    assert isinstance(asked.events[-1], Cancelled)
    count = len(asked.events)
    run(core)
    assert len(asked.events) == count
    if other is not None:
        assert other.tokens == greedy([BOS, 3], 5)
    core.scheduler.cache.clear()
    assert core.scheduler.cache.num_available == core.scheduler.cache.num_blocks


def test_progress_counts_a_long_prompt(bundle: Bundle) -> None:
    core = open_core(bundle, chunk=16)
    asked = Asked(core, [BOS, *[1] * 39], max_tokens=1)
    run(core)
    progress = [event for event in asked.events if isinstance(event, Progress)]
    assert [(each.computed, each.total) for each in progress] == [(16, 40), (32, 40)]


def test_an_engine_that_fails_fails_the_requests_that_it_fails_on(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = open_core(bundle)
    forward = core._runner.forward

    def failing(batch: object) -> np.ndarray:
        if 66 in batch.input_ids:  # type: ignore[attr-defined]
            raise EngineError("out of memory")
        return forward(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(core._runner, "forward", failing)
    good = Asked(core, [BOS, 1, 2], max_tokens=4)
    bad = Asked(core, [BOS, 66, 2], max_tokens=4)
    run(core)
    assert good.tokens == greedy([BOS, 1, 2], 4)
    assert isinstance(bad.events[-1], Failed)
    assert str(bad.events[-1].error) == "out of memory"


@pytest.mark.parametrize(
    ("prompt", "params", "error"),
    [
        ([], {}, "prompt is empty"),
        ([BOS] * 300, {}, "300 tokens, and the context holds 256"),
        ([VOCAB], {}, f"token id {VOCAB}, outside the vocabulary of {VOCAB}"),
        ([-1], {}, "token id -1, outside"),
        ([1], {"stop_token_ids": [VOCAB]}, f"stop_token_ids has token id {VOCAB}"),
        ([1], {"logit_bias": {VOCAB: 1.0}}, f"logit_bias has token id {VOCAB}"),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_is_queued(
    bundle: Bundle, prompt: list[int], params: dict[str, object], error: str
) -> None:
    core = open_core(bundle)
    with pytest.raises(RequestError, match=error):
        Asked(core, prompt, **params)
    assert not core.has_work


def test_a_full_queue_is_busy(bundle: Bundle) -> None:
    core = open_core(bundle, max_batch=1, max_queue=2)
    for _ in range(2):
        Asked(core, [BOS, 1], max_tokens=1)
    with pytest.raises(BusyError, match="try again later"):
        Asked(core, [BOS, 1], max_tokens=1)
    run(core)
    Asked(core, [BOS, 1], max_tokens=1)


def test_prompt_logprobs_are_of_the_row_before_each_token(bundle: Bundle) -> None:
    core = open_core(bundle, chunk=16)
    prompt = [BOS, *range(1, 40)]
    asked = Asked(core, prompt, max_tokens=1, prompt_logprobs=2)
    run(core)
    (report,) = [event for event in asked.events if isinstance(event, PromptLogprobs)]
    assert report.tokens[0] is None
    for index in range(1, len(prompt)):
        logits = expected_logits(prompt[:index]).astype(np.float64)
        normal = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        assert report.tokens[index] == pytest.approx(normal[prompt[index]], abs=1e-3)
        assert report.top[index][0][0] == int(np.argmax(logits))


def test_min_tokens_and_ignore_eos_hold_the_end_back(tmp_path: Path) -> None:
    from tests.toy_engine import script

    folder = write_toy_engine(tmp_path / "engine", scripted=script(2, [EOS] * 30))
    bundle = Bundle.load(folder)
    for params, count in (
        ({}, 1),
        ({"min_tokens": 4}, 5),
        ({"ignore_eos": True, "max_tokens": 7}, 7),
    ):
        core = open_core(bundle, 64)
        asked = Asked(core, [BOS, 1], **params)
        run(core)
        assert len(asked.tokens) == count


def test_the_deterministic_mode_runs_one_answer_at_a_time_and_reuses_nothing(
    bundle: Bundle,
) -> None:
    core = open_core(bundle, deterministic=True, chunk=16)
    asked = [Asked(core, [BOS, *[1] * 40], max_tokens=3) for _ in range(3)]
    sizes = []
    forward = core._runner.forward

    def recording(batch: object) -> np.ndarray:
        sizes.append((len(batch.input_ids), len(batch.block_table)))  # type: ignore[attr-defined]
        return forward(batch)  # type: ignore[arg-type]

    core._runner.forward = recording  # type: ignore[method-assign]
    run(core)
    assert sizes == [(16, 1), (16, 1), (9, 1), (1, 1), (1, 1)] * 3
    assert asked[0].tokens == asked[2].tokens


@given(
    forced=st.binary(min_size=1, max_size=6),
    temperature=st.sampled_from([0.0, 500.0]),
    max_tokens=st.integers(1, 5),
)
@settings(max_examples=30)
def test_a_forced_beginning_is_computed_and_not_said(
    bundle: Bundle, forced: bytes, temperature: float, max_tokens: int
) -> None:
    core = open_core(bundle)
    events: list[Event] = []
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=1, logprobs=1)
    core.submit(core.prepare(Request((BOS, 1, 2), params, forced=forced), events.append))
    run(core)
    chunks = [event for event in events if isinstance(event, Chunk)]
    tokens = [chunk.token for chunk in chunks if chunk.token is not None]
    begun = b"".join(map(TOKENIZER.token_bytes, tokens[: len(forced)]))
    assert begun == forced
    # Only what is behind it counts, and is the text.
    ends_early = tokens[-1] == EOS
    assert ends_early or len(tokens) == len(forced) + max_tokens
    rest = b"".join(map(TOKENIZER.token_bytes, tokens[len(forced) :]))
    assert "".join(chunk.text for chunk in chunks) == rest.decode("utf-8", "replace")
    assert all(chunk.logprob is not None and chunk.logprob <= 0 for chunk in chunks)
