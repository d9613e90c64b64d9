"""A request whose values are not finite ends alone, on the graphs that `trtcoder build` writes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.engines import build_engine, write_checkpoint
from trtcoder.bundle.folder import Bundle
from trtcoder.errors import EngineError
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.runner import ModelRunner
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.requests.events import Chunk, Event, Failed
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.testing.random_checkpoint import tiny_config

POISON = 77


@pytest.fixture(scope="module", params=["fp32", "int8", "fp8"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An engine in float32 with each kind of cache, whose embedding of `POISON` is NaN."""
    work = tmp_path_factory.mktemp("poisoned")
    source = write_checkpoint(work / "checkpoint", tiny_config())
    folder = build_engine(source, work / "engine", "fp32", cache=request.param).folder
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    (table,) = [t for t in model.graph.initializer if t.name == "embed_tokens/weight"]
    place = {entry.key: entry.value for entry in table.external_data}
    with (folder / place["location"]).open("r+b") as file:
        file.seek(int(place["offset"]) + POISON * table.dims[1] * 4)
        file.write(np.full(table.dims[1], np.nan, np.float32).tobytes())
    return Bundle.load(folder, verify_hashes=False)


def open_core(bundle: Bundle, **settings: object) -> EngineCore:
    tokenizer = TextTokenizer.load(bundle.tokenizer_path)
    runner = ModelRunner(bundle, threads=1, cache_tokens=256)
    return EngineCore(runner, tokenizer, EngineSettings(**settings))  # type: ignore[arg-type]


def ask(core: EngineCore, prompt: list[int], **params: object) -> list[Event]:
    events: list[Event] = []
    sampling = SamplingParams(ignore_eos=True, **params)  # type: ignore[arg-type]
    core.submit(core.prepare(Request(tuple(prompt), sampling), events.append))
    return events


def run(core: EngineCore) -> None:
    while core.has_work:
        core.step()
        core.scheduler.check()


def tokens(events: list[Event]) -> list[int | None]:
    return [event.token for event in events if isinstance(event, Chunk)]


@pytest.fixture
def alone(bundle: Bundle) -> list[int | None]:
    core = open_core(bundle)
    events = ask(core, [1, 2, 3, 4], max_tokens=8)
    run(core)
    assert len(tokens(events)) == 8
    return tokens(events)


def failed(events: list[Event]) -> bool:
    return (
        isinstance(events[-1], Failed)
        and isinstance(events[-1].error, EngineError)
        and "not finite" in str(events[-1].error)
    )


def test_the_next_request_is_not_harmed(bundle: Bundle, alone: list[int | None]) -> None:
    core = open_core(bundle)
    bad = ask(core, [5, 6, POISON, 7, 8, 9, 10], max_tokens=4)
    run(core)
    assert failed(bad)
    for prompt in ([1, 2, 3, 4], [1]):
        good = ask(core, prompt, max_tokens=8)
        run(core)
        assert len(tokens(good)) == 8
        if len(prompt) == 4:
            assert tokens(good) == alone


def test_neighbours_in_the_batch_are_computed_again(
    bundle: Bundle, alone: list[int | None]
) -> None:
    core = open_core(bundle)
    events = [
        ask(core, [1, 2, 3, 4], max_tokens=8),
        ask(core, [5, POISON, 6], max_tokens=8),
        ask(core, [1, 2, 3, 4], max_tokens=8),
    ]
    run(core)
    assert failed(events[1])
    assert tokens(events[0]) == tokens(events[2]) == alone


def test_a_request_that_turns_bad_while_it_decodes_ends_alone(
    bundle: Bundle, alone: list[int | None]
) -> None:
    core = open_core(bundle)
    bad = ask(core, [5, 6, 7], max_tokens=8, logit_bias={POISON: 100.0})
    good = ask(core, [1, 2, 3, 4], max_tokens=8)
    run(core)
    assert tokens(bad) == [POISON]
    assert failed(bad)
    assert tokens(good) == alone


def test_bad_rows_never_become_a_prefix(bundle: Bundle) -> None:
    core = open_core(bundle, chunk=16)
    prompt = [*range(1, 40), POISON, *range(1, 20)]
    for _ in range(2):
        bad = ask(core, prompt, max_tokens=2)
        run(core)
        assert failed(bad)
    found = core.scheduler.cache.find("", prompt)
    # The chunks before the bad one are good, and known.
    assert found.num_tokens(core.scheduler.cache.block_size) <= 39
    good = ask(core, prompt[:39], max_tokens=2)
    run(core)
    assert len(tokens(good)) == 2
