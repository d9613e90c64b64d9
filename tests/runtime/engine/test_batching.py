"""What batching may change, on the graphs that `trtcoder build` writes.

On our kernels nothing. On ONNX Runtime's own operators, in float32 and with accuracy level 0, a
text may change at a near tie only: logits move by about 1e-6 with the number of rows, so two tokens
closer than that may change places.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import build_engine, write_checkpoint
from tests.runtime.guesses import Guesses
from trtcoder.bundle.folder import Bundle
from trtcoder.errors import DependencyError
from trtcoder.plugins.library import open_library
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.requests.events import Chunk, Event
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.speculation.speculator import Speculator
from trtcoder.testing.random_checkpoint import tiny_config

# The largest difference between a row alone and among others that was seen was 3e-6.
TIE = 1e-4


@pytest.fixture(scope="module", params=["fp32", "int4"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    work = tmp_path_factory.mktemp("batching")
    source = write_checkpoint(work / "checkpoint", tiny_config())
    level = {} if request.param == "fp32" else {"accuracy_level": 0}
    return build_engine(source, work / "engine", request.param, **level)  # type: ignore[arg-type]


@pytest.fixture(
    scope="module",
    params=[
        ("int4", "fp32"),
        ("int4", "int8"),
        ("int4", "fp8"),
        ("fp32", "fp32"),
        ("fp32", "int8"),
    ],
    ids="-".join,
)
def on_kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An engine whose products are all ours: in int4, which rounds activations, or in float32."""
    try:
        open_library()
    except DependencyError as error:
        pytest.skip(str(error))
    work = tmp_path_factory.mktemp("exact")
    source = write_checkpoint(work / "checkpoint", tiny_config())
    weights, cache = request.param
    return build_engine(source, work / "engine", weights, cache=cache)


def open_core(bundle: Bundle, cache_tokens: int = 512, **options: object) -> EngineCore:
    tokenizer = TextTokenizer.load(bundle.folder / "tokenizer.json")
    runner = ModelRunner(bundle, threads=1, cache_tokens=cache_tokens)
    return EngineCore(runner, tokenizer, EngineSettings(**options))  # type: ignore[arg-type]


def ask(core: EngineCore, prompt: list[int], count: int) -> list[Event]:
    events: list[Event] = []
    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, logprobs=2)
    core.submit(core.prepare(Request(tuple(prompt), params), events.append))
    return events


def chunks(events: list[Event]) -> list[Chunk]:
    return [event for event in events if isinstance(event, Chunk)]


def same_but_for_near_ties(found: list[Chunk], wanted: list[Chunk]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        if ours.token != theirs.token:
            (_, first), (_, second) = theirs.top_logprobs
            assert first - second < TIE, "a text changed, and no near tie was there"
            return  # from here on they are answers to different texts


# Prompts, and the step at which each is asked.
PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 250), min_size=1, max_size=40), st.integers(0, 6)),
    min_size=2,
    max_size=5,
)
Prompts = list[tuple[list[int], int]]


def answers_alone(bundle: Bundle, prompts: Prompts) -> list[list[Chunk]]:
    """Return each prompt's answer by an engine that has done nothing else."""
    found = []
    for prompt, _ in prompts:
        core = open_core(bundle, max_batch=1, prefix_cache=False, speculate=False)
        events = ask(core, prompt, 8)
        while core.has_work:
            core.step()
        found.append(chunks(events))
    return found


def answers_together(
    bundle: Bundle, prompts: Prompts, chunk: int, blocks: int, speculator: Speculator | None = None
) -> list[list[Chunk]]:
    """Return the answers by one engine that batches, cuts, reuses and runs out of blocks."""
    core = open_core(bundle, blocks * 16, chunk=chunk, max_batch=4)
    if speculator is not None:
        core._speculator = speculator
    found: dict[int, list[Event]] = {}
    for number in range(200):
        for index, (prompt, when) in enumerate(prompts):
            if when == number:
                found[index] = ask(core, prompt, 8)
        core.step()
        core.scheduler.check()
        if len(found) == len(prompts) and not core.has_work:
            break
    return [chunks(found[index]) for index in range(len(prompts))]


@settings(max_examples=15)
@given(prompts=PROMPTS, chunk=st.integers(16, 64), blocks=st.integers(12, 32))
def test_a_text_alone_is_the_text_batched_chunked_cached_and_preempted(
    bundle: Bundle, prompts: Prompts, chunk: int, blocks: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTCODER_PLUGINS", "0")
        together = answers_together(bundle, prompts, chunk, blocks)
        alone = answers_alone(bundle, prompts)
    for found, wanted in zip(together, alone, strict=True):
        same_but_for_near_ties(found, wanted)


@settings(max_examples=15)
@given(prompts=PROMPTS, chunk=st.integers(16, 64), blocks=st.integers(12, 32))
def test_on_our_kernels_it_is_the_same_text_with_the_same_bits(
    on_kernels: Bundle, prompts: Prompts, chunk: int, blocks: int
) -> None:
    together = answers_together(on_kernels, prompts, chunk, blocks)
    for found, wanted in zip(together, answers_alone(on_kernels, prompts), strict=True):
        assert [each.token for each in found] == [each.token for each in wanted]
        assert [each.top_logprobs for each in found] == [each.top_logprobs for each in wanted]


@settings(max_examples=15)
@given(prompts=PROMPTS, chunk=st.integers(16, 64), blocks=st.integers(12, 32), seed=st.integers())
def test_on_our_kernels_it_is_the_same_text_with_the_same_bits_drafted_too(
    on_kernels: Bundle, prompts: Prompts, chunk: int, blocks: int, seed: int
) -> None:
    wanted = answers_alone(on_kernels, prompts)
    answers: dict[tuple[int, ...], list[list[int]]] = {}
    for (prompt, _), each in zip(prompts, wanted, strict=True):
        answers[tuple(prompt)] = [[chunk.token for chunk in each if chunk.token is not None]]
    together = answers_together(on_kernels, prompts, chunk, blocks, Guesses(answers, seed))
    for found, theirs in zip(together, wanted, strict=True):
        assert [each.token for each in found] == [each.token for each in theirs]
        assert [each.top_logprobs for each in found] == [each.top_logprobs for each in theirs]


def test_the_deterministic_mode_gives_the_same_bits_whatever_else_is_asked(
    bundle: Bundle, tmp_path: Path
) -> None:
    prompts = [list(range(start, start + 30)) for start in (1, 60, 120)]

    def logprobs(others: bool) -> list[float | None]:
        core = open_core(bundle, deterministic=True, chunk=16)
        if others:
            for prompt in prompts[1:]:
                ask(core, prompt, 5)
        events = ask(core, prompts[0], 6)
        if others:
            ask(core, prompts[1], 5)
        while core.has_work:
            core.step()
        return [chunk.logprob for chunk in chunks(events)]

    np.testing.assert_array_equal(logprobs(others=True), logprobs(others=False))
