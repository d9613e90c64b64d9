from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_engine import (
    BLOCK,
    BOS,
    EOS,
    FIM_END,
    POSITIONS,
    byte_tokenizer,
    expected_logits,
    script,
    toy_manifest,
    write_toy_engine,
)
from trtcoder.bundle.folder import Bundle
from trtcoder.errors import EngineError, RequestError
from trtcoder.prompting.prompts import Message
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime import open_engine
from trtcoder.runtime.cache.blocks import BlockTable
from trtcoder.runtime.coder import Coder, open_coder
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.runner import Engine
from trtcoder.runtime.requests.generation import Chunk, Generator
from trtcoder.runtime.sampling.params import SamplingParams

TOKENIZER = TextTokenizer(byte_tokenizer())
HOT = SamplingParams(temperature=5000.0, seed=11)


def scripted(folder: Path, after: int, answer: str | list[int]) -> Coder:
    """A coder whose answer to a prompt of ``after`` tokens is ``answer``."""
    tokens = TOKENIZER.encode(answer) if isinstance(answer, str) else answer
    return open_engine(write_toy_engine(folder / "engine", scripted=script(after, tokens)))


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_engine(tmp_path_factory.mktemp("toy") / "engine")


def test_an_answer_ends_at_an_end_of_sequence_token(tmp_path: Path) -> None:
    coder = scripted(tmp_path, 3, [*TOKENIZER.encode("x+1"), EOS, 5])
    generation = coder.complete("f(")
    chunks = list(generation)
    assert "".join(chunk.text for chunk in chunks) == "x+1"
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert chunks[-1].token == EOS
    assert generation.finish_reason == "stop"
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (3, 4)
    assert generation.usage.prefill_seconds > 0
    assert generation.usage.decode_tokens_per_second is not None


def test_an_answer_ends_before_a_stop_string_that_spans_tokens(tmp_path: Path) -> None:
    coder = scripted(tmp_path, 3, "a = 1\n\ndef g")
    generation = coder.complete("f(", stop=["\n\ndef", "zzz"])
    assert generation.text() == "a = 1"
    assert generation.finish_reason == "stop"
    assert generation.usage.completion_tokens == len("a = 1\n\ndef")


def test_an_answer_ends_at_the_requested_length(tmp_path: Path) -> None:
    coder = scripted(tmp_path, 3, "abcdefgh")
    generation = coder.complete("f(", max_tokens=3)
    assert (generation.text(), generation.finish_reason) == ("abc", "length")
    # What was held back for a stop string that never came is shown in the end.
    generation = coder.complete("f(", max_tokens=3, stop=["bcx"])
    assert (generation.text(), generation.finish_reason) == ("abc", "length")


def test_a_character_cut_by_the_length_becomes_a_replacement(tmp_path: Path) -> None:
    coder = scripted(tmp_path, 3, "é")
    assert coder.complete("f(", max_tokens=2).text() == "é"
    assert coder.complete("f(", max_tokens=1).text() == "\N{REPLACEMENT CHARACTER}"


def test_an_answer_ends_at_the_end_of_the_context_and_never_dies(tmp_path: Path) -> None:
    coder = scripted(tmp_path, 3, "a" * POSITIONS)
    generation = coder.complete("f(")
    # The last token is sampled from the last position and has no place of its own.
    assert generation.text() == "a" * (POSITIONS - 3 + 1)
    assert generation.finish_reason == "context"
    assert coder.complete("f(", max_tokens=2).text() == "aa"


def test_a_prompt_that_fills_the_context_gets_one_token(toy_folder: Path) -> None:
    coder = open_engine(toy_folder)
    generation = coder.complete("a" * (POSITIONS - 1))
    assert [chunk.finish_reason for chunk in generation] == ["context"]
    with pytest.raises(RequestError, match=f"prompt has {POSITIONS + 1} tokens.*{POSITIONS}"):
        coder.complete("a" * POSITIONS)


def test_a_cache_smaller_than_the_context_ends_the_answer_too(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "engine", scripted=script(3, [65] * 60))
    coder = open_coder(folder, cache_tokens=3 * BLOCK)
    generation = coder.complete("f(")
    assert len(generation.text()) == 3 * BLOCK - 3 + 1
    assert generation.finish_reason == "context"


def test_blocks_that_other_sequences_hold_are_respected(toy_folder: Path) -> None:
    engine = Engine(Bundle.load(toy_folder), cache_tokens=4 * BLOCK)
    other = BlockTable(engine.cache)
    other.append(2 * BLOCK)
    generator = Generator(engine, TOKENIZER)
    generation = generator.generate([BOS, 1, 2])
    generation.text()
    assert generation.finish_reason == "context"
    assert generation.usage.completion_tokens == 2 * BLOCK - 3 + 1
    with pytest.raises(RequestError, match="no room for 9 more tokens"):
        generator.generate([1] * 9).text()
    generator.close()
    assert engine.cache.num_free_blocks == 2


def test_greedy_decoding_is_the_argmax_of_each_step(toy_folder: Path) -> None:
    coder = open_engine(toy_folder)
    tokens = [chunk.token for chunk in coder.complete("hello", max_tokens=12)]
    sequence = coder.prompts.completion("hello")
    for token in tokens:
        assert token == np.argmax(expected_logits(sequence))
        sequence.append(token)


def test_same_seed_same_text(toy_folder: Path) -> None:
    coder = open_engine(toy_folder)

    def text(seed: int) -> str:
        return coder.complete(
            "hello", SamplingParams(temperature=3000.0, seed=seed), max_tokens=20
        ).text()

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(5)}) > 1


def test_a_drawn_seed_is_told(toy_folder: Path) -> None:
    coder = open_engine(toy_folder)
    first = coder.complete("hello", SamplingParams(temperature=3000.0), max_tokens=20)
    text = first.text()
    again = SamplingParams(temperature=3000.0, seed=first.seed)
    assert coder.complete("hello", again, max_tokens=20).text() == text


@settings(max_examples=30)
@given(
    prompts=st.lists(st.text("ab", max_size=30), min_size=2, max_size=4),
    max_tokens=st.integers(1, 12),
)
def test_a_reused_prefix_changes_the_cost_and_not_the_text(
    toy_folder: Path, prompts: list[str], max_tokens: int
) -> None:
    bundle = Bundle.load(toy_folder, verify_hashes=False)
    engine = Engine(bundle, threads=1, cache_tokens=2 * POSITIONS)
    reusing, fresh = Generator(engine, TOKENIZER), Generator(engine, TOKENIZER)
    held: list[int] = []
    for prompt in prompts:
        ids = [BOS, *TOKENIZER.encode(prompt)]
        again = reusing.generate(ids, HOT, max_tokens=max_tokens, reuse_prefix=True)
        plain = fresh.generate(ids, HOT, max_tokens=max_tokens)
        tokens = [chunk.token for chunk in again]
        assert tokens == [chunk.token for chunk in plain]
        common = 0
        while common < min(len(held), len(ids) - 1) and held[common] == ids[common]:
            common += 1
        assert again.usage.cached_tokens == common
        assert plain.usage.cached_tokens == 0
        held = ids + tokens[:-1]  # the last token is sampled but never run
    reusing.close()
    fresh.close()
    assert engine.cache.num_free_blocks == engine.cache.num_blocks


def test_the_next_turn_of_a_chat_computes_only_what_is_new(tmp_path: Path) -> None:
    first = [Message("user", "hi")]
    length = len(TOKENIZER.encode("User: hi\n\nAssistant:")) + 1
    coder = scripted(tmp_path, length, [*TOKENIZER.encode(" yo"), EOS])
    assert coder.chat(first, reuse_prefix=True).text() == "yo"
    second = [*first, Message("assistant", "yo"), Message("user", "x")]
    generation = coder.chat(second, max_tokens=1, reuse_prefix=True)
    generation.text()
    assert generation.usage.cached_tokens == length + len(" yo")


def test_long_prompts_are_prefilled_in_chunks(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Bundle.load(toy_folder), threads=1)
    sizes: list[int] = []
    forward = engine.forward

    def recording(batch: PackedBatch) -> np.ndarray:
        sizes.append(len(batch.input_ids))
        return forward(batch)

    monkeypatch.setattr(engine, "forward", recording)
    monkeypatch.setattr(engine, "prefill_chunk", lambda _: 8)
    prompt = [BOS, *range(20)]
    chunk = next(Generator(engine, TOKENIZER).generate(prompt))
    assert sizes == [8, 8, 5]
    assert chunk.token == np.argmax(expected_logits(prompt))


def test_a_new_request_ends_the_one_before_it(toy_folder: Path) -> None:
    coder = open_engine(toy_folder)
    first = coder.complete("one", max_tokens=30)
    next(first)
    second = coder.complete("two", max_tokens=5)
    expected = [chunk.token for chunk in open_engine(toy_folder).complete("two", max_tokens=5)]
    assert list(first) == []
    assert [chunk.token for chunk in second] == expected
    assert first.finish_reason is None


def test_an_interrupted_answer_leaves_a_cache_that_can_be_used(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder = open_engine(toy_folder)
    engine = coder.generator._engine
    forward, calls = engine.forward, 0

    def interrupted(batch: PackedBatch) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return forward(batch)

    monkeypatch.setattr(engine, "forward", interrupted)
    generation = coder.chat([Message("user", "hi")], max_tokens=9, reuse_prefix=True)
    with pytest.raises(KeyboardInterrupt):
        generation.text()
    assert len(coder.generator._cached) == coder.generator._table.num_tokens
    again = coder.chat([Message("user", "hi")], max_tokens=9, reuse_prefix=True)
    expected = open_engine(toy_folder).chat([Message("user", "hi")], max_tokens=9)
    assert [c.token for c in again] == [c.token for c in expected]
    assert again.usage.cached_tokens > 0


def test_leaving_a_coder_frees_its_cache(toy_folder: Path) -> None:
    with open_engine(toy_folder) as coder:
        next(coder.complete("hello"))
        cache = coder.generator._engine.cache
        assert cache.num_free_blocks < cache.num_blocks
    assert cache.num_free_blocks == cache.num_blocks


def test_logprobs_come_with_each_chunk(toy_folder: Path) -> None:
    coder = open_engine(toy_folder)
    chunks: list[Chunk] = list(coder.complete("hi", SamplingParams(logprobs=3), max_tokens=2))
    logits = expected_logits(coder.prompts.completion("hi")).astype(np.float64)
    best = math.log(1 / np.exp(logits - logits.max()).sum())
    assert chunks[0].logprob == pytest.approx(best)
    assert [len(chunk.top_logprobs) for chunk in chunks] == [3, 3]
    assert chunks[0].top_logprobs[0] == (chunks[0].token, chunks[0].logprob)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"stop": [""]}, "stop: an empty string"),
    ],
)
def test_a_bad_request_fails_before_anything_is_computed(
    toy_folder: Path, arguments: dict[str, object], error: str
) -> None:
    coder = open_engine(toy_folder)
    with pytest.raises(RequestError, match=error):
        coder.complete("a", **arguments)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="prompt is empty"):
        coder.generator.generate([])


def test_filling_asks_with_the_markers(tmp_path: Path) -> None:
    # BOS, begin, 2 bytes, hole, 1 byte, end: the answer starts after 7 tokens.
    coder = scripted(tmp_path, 7, [*TOKENIZER.encode("mid"), EOS])
    assert coder.prompts.fim("ab", "c")[-1] == FIM_END
    assert coder.fill("ab", "c").text() == "mid"


def test_an_engine_without_a_capability_is_refused_before_it_loads(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "engine", toy_manifest(fim=False))
    (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size)
    with pytest.raises(RequestError, match="not trained to fill in the middle"):
        open_coder(folder, capability="fim")


def test_a_changed_file_is_named_even_when_the_graph_does_not_load(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "engine")
    (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size)
    with pytest.raises(EngineError, match=r"model\.onnx has sha256"):
        open_coder(folder)
    data = (folder / "tokenizer.json").read_text()
    folder = write_toy_engine(tmp_path / "other")
    (folder / "tokenizer.json").write_text(data.replace("fim", "fom"))
    with pytest.raises(EngineError, match=r"tokenizer\.json has sha256"):
        open_coder(folder)
