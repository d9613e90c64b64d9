"""Drafts change how many steps an answer takes, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.engine.test_core import Asked, open_core, run
from tests.runtime.guesses import CheapRows, Guesses
from tests.toy_engine import BOS, EOS, script, toy_manifest, write_toy_engine
from trtcoder.bundle.folder import Bundle
from trtcoder.errors import EngineError, RequestError
from trtcoder.runtime.constraints.constraint import Constraint
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.requests.events import Chunk, Failed
from trtcoder.runtime.scheduler.sequence import Sequence as Tokens
from trtcoder.runtime.speculation.speculator import Speculator

Request = tuple[Sequence[int], Mapping[str, Any]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = dataclasses.replace(toy_manifest().model, max_positions=256)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    return Bundle.load(write_toy_engine(tmp_path_factory.mktemp("toy") / "engine", manifest))


def said(asked: Asked) -> list[Chunk]:
    return [event for event in asked.events if isinstance(event, Chunk)]


def tokens(asked: Asked, index: int = 0) -> list[int]:
    found = [chunk.token for chunk in said(asked) if chunk.index == index]
    return [token for token in found if token is not None]


def alone(bundle: Bundle, requests: Sequence[Request]) -> list[Asked]:
    """Return the answers of an engine that drafts nothing and has done nothing else."""
    found = []
    for prompt, params in requests:
        core = open_core(bundle, speculate=False, max_batch=1, prefix_cache=False)
        found.append(Asked(core, prompt, **params))
        run(core)
    return found


def guessing(core: EngineCore, requests: Sequence[Request], wanted: list[Asked], seed: int) -> None:
    """Let a core draft from what was answered without."""
    answers: dict[tuple[int, ...], list[list[int]]] = {}
    for (prompt, params), asked in zip(requests, wanted, strict=True):
        for index in range(params.get("n", 1)):
            answers.setdefault(tuple(prompt), []).append(tokens(asked, index))
    core._speculator = Guesses(answers, seed)


WAYS: list[Mapping[str, Any]] = [
    {},
    {"ignore_eos": True},
    {"stop": ["a", "\0\0"], "ignore_eos": True},
    {"temperature": 3000.0, "seed": 3, "ignore_eos": True, "n": 2},
    {"temperature": 900.0, "seed": 8, "top_p": 0.9, "repetition_penalty": 1.3, "logprobs": 2},
    {"frequency_penalty": 2.0, "min_tokens": 6, "logprobs": 0},
    {"constraint": Constraint.regex("[a-d]{3}(xy|[0-9])*")},
    {"constraint": Constraint.regex("([a-z]{2}){1,9}"), "temperature": 2000.0, "seed": 5},
]


@settings(max_examples=40)
@given(
    asked=st.lists(
        st.tuples(
            st.lists(st.sampled_from([1, 2, 97]), min_size=1, max_size=24),
            st.sampled_from(WAYS),
            st.integers(1, 12),
            st.integers(0, 8),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda each: tuple(each[0]),
    ),
    cache_blocks=st.integers(14, 40),
    max_batch=st.integers(1, 6),
    cancels=st.dictionaries(st.integers(0, 5), st.integers(0, 12), max_size=2),
    seed=st.integers(0, 1000),
)
def test_whatever_is_drafted_the_answers_are_the_same(
    bundle: Bundle,
    asked: list[tuple[list[int], Mapping[str, Any], int, int]],
    cache_blocks: int,
    max_batch: int,
    cancels: dict[int, int],
    seed: int,
) -> None:
    requests = [
        ([BOS, *prompt], {**way, "max_tokens": max(most, way.get("min_tokens", 1))})
        for prompt, way, most, _ in asked
    ]
    wanted = alone(bundle, requests)
    core = open_core(bundle, 4 * cache_blocks, speculate=True, max_batch=max_batch, chunk=16)
    guessing(core, requests, wanted, seed)
    found: dict[int, Asked] = {}
    for number in range(400):
        for index, (prompt, params) in enumerate(requests):
            if asked[index][3] == number:
                found[index] = Asked(core, prompt, **params)
            if cancels.get(index) == number and index in found:
                core.cancel(found[index].job)
        core.step()
        core.scheduler.check()
        if len(found) == len(requests) and not core.has_work:
            break
    assert not core.has_work
    for index, theirs in enumerate(wanted):
        for answer in range(requests[index][1].get("n", 1)):
            ours, whole = (
                [chunk for chunk in said(each) if chunk.index == answer]
                for each in (found[index], theirs)
            )
            # Tokens, text, log-probabilities and how it ended.
            assert ours == (whole[: len(ours)] if index in cancels else whole)
        if index not in cancels:
            usage, expected = found[index].job.usage, theirs.job.usage
            assert usage.completion_tokens == expected.completion_tokens
    core.scheduler.cache.clear()
    assert core.scheduler.cache.num_available == cache_blocks


def scripted(folder: Path, prompt: list[int], answer: list[int]) -> Bundle:
    model = dataclasses.replace(toy_manifest().model, max_positions=256)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    found = script(len(prompt), answer)
    return Bundle.load(write_toy_engine(folder / "engine", manifest, scripted=found))


COPIED = list(range(97, 122))


def test_an_answer_that_copies_its_prompt_takes_a_third_of_the_steps(tmp_path: Path) -> None:
    prompt = [BOS, *COPIED, 10]
    bundle = scripted(tmp_path, prompt, [*COPIED[:12], 65, *COPIED[13:], *COPIED, EOS])
    steps = {}
    for speculate in (False, True):
        core = open_core(bundle, speculate=speculate)
        if core._speculator is not None:
            core._speculator = Speculator(CheapRows())
        asked = Asked(core, prompt, max_tokens=100)
        run(core)
        assert asked.tokens == [*COPIED[:12], 65, *COPIED[13:], *COPIED, EOS]
        steps[speculate] = core.stats.steps
        stats = core.stats
    assert 3 * steps[True] < steps[False]
    assert stats.generated_tokens == len(asked.tokens)
    assert 0 < stats.accepted_tokens <= stats.drafted_tokens
    assert sum(stats.accepted_at) == stats.accepted_tokens
    assert stats.accepted_at[0] <= stats.drafts
    assert steps[True] + stats.accepted_tokens == steps[False]


def test_a_draft_takes_no_block_from_another_answer(bundle: Bundle) -> None:
    requests: list[Request] = [([BOS, 1, 2, 3], {"max_tokens": 24, "ignore_eos": True})] * 2
    wanted = alone(bundle, requests)
    core = open_core(bundle, 4 * 14, speculate=True, prefix_cache=False)
    guessing(core, requests, wanted, 1)
    for prompt, params in requests:
        Asked(core, prompt, **params)
    run(core)
    # Two answers of 28 tokens are exactly the fourteen blocks.
    assert core.num_preemptions == 0


def test_a_guess_whose_logits_are_not_finite_fails_nobody(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wanted,) = alone(bundle, [([BOS, 1, 2], {"max_tokens": 8, "ignore_eos": True})])

    class Wrong(Guesses):
        def _guess(self, sequence: Tokens) -> list[int]:
            return [250, 251]

    core = open_core(bundle, speculate=True)
    core._speculator = Wrong({}, 0)
    forward = core._runner.forward

    def poisoned(batch: Any) -> np.ndarray:
        logits = forward(batch)
        logits[np.isin(batch.input_ids[batch.sample_rows], [250, 251])] = np.nan
        return logits

    monkeypatch.setattr(core._runner, "forward", poisoned)
    asked = Asked(core, [BOS, 1, 2], max_tokens=8, ignore_eos=True)
    run(core)
    assert not any(isinstance(event, Failed) for event in asked.events)
    assert 250 not in wanted.tokens
    assert asked.tokens == wanted.tokens


def test_an_engine_that_fails_on_drafts_goes_on_without(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = [([BOS, 1, 2], {"max_tokens": 8, "ignore_eos": True})]
    wanted = alone(bundle, requests)
    core = open_core(bundle, speculate=True)
    guessing(core, requests, wanted, 2)
    forward = core._runner.forward

    def failing(batch: Any) -> np.ndarray:
        if len(batch.sample_rows) > 1:
            raise EngineError("out of memory")
        return forward(batch)

    monkeypatch.setattr(core._runner, "forward", failing)
    asked = Asked(core, requests[0][0], **requests[0][1])
    run(core)
    assert asked.tokens == wanted[0].tokens


def test_drafts_are_the_default_only_where_they_change_no_bit(bundle: Bundle) -> None:
    # The toy engine runs on ONNX Runtime's own operators.
    assert open_core(bundle)._speculator is None
    assert open_core(bundle, speculate=True)._speculator is not None
    with pytest.raises(RequestError, match="speculate: not together with deterministic"):
        EngineSettings(speculate=True, deterministic=True)
