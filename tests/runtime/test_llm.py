from __future__ import annotations

import dataclasses
import math
import threading
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
from trtcoder import LLM, SamplingParams, open_engine
from trtcoder.bundle.manifest import SamplingDefaults
from trtcoder.errors import BusyError, EngineError, RequestError
from trtcoder.prompting.auto_tokenizer import AutoTokenizer
from trtcoder.prompting.prompts import Message
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.requests.request import Request

TOKENIZER = TextTokenizer(byte_tokenizer())
HOT = SamplingParams(temperature=5000.0, seed=11, max_tokens=12)


def scripted(folder: Path, after: int, answer: str | list[int], context: int | None = None) -> LLM:
    """An engine whose answer to a prompt of ``after`` tokens is ``answer``."""
    tokens = TOKENIZER.encode(answer) if isinstance(answer, str) else answer
    written = write_toy_engine(folder / "engine", scripted=script(after, tokens))
    return open_engine(written, threads=1, context=context)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_engine(tmp_path_factory.mktemp("toy") / "engine")


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder)


def greedy(prompt: list[int], count: int) -> list[int]:
    sequence = list(prompt)
    for _ in range(count):
        sequence.append(int(np.argmax(expected_logits(sequence))))
    return sequence[len(prompt) :]


# -- one answer, chunk by chunk


def test_an_answer_ends_at_an_end_of_sequence_token(tmp_path: Path) -> None:
    llm = scripted(tmp_path, 3, [*TOKENIZER.encode("x+1"), EOS, 5])
    generation = llm.stream("f(")
    chunks = list(generation)
    assert "".join(chunk.text for chunk in chunks) == "x+1"
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert chunks[-1].token == EOS
    assert (generation.finish_reason, generation.stop_reason) == ("stop", None)
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (3, 4)
    assert generation.usage.prefill_seconds > 0
    assert generation.usage.decode_tokens_per_second is not None


def test_an_answer_ends_before_a_stop_string_that_spans_tokens(tmp_path: Path) -> None:
    llm = scripted(tmp_path, 3, "a = 1\n\ndef g")
    generation = llm.stream("f(", stop=["\n\ndef", "zzz"])
    assert generation.text() == "a = 1"
    assert (generation.finish_reason, generation.stop_reason) == ("stop", "\n\ndef")
    assert generation.usage.completion_tokens == len("a = 1\n\ndef")


def test_an_answer_ends_at_a_stop_token(tmp_path: Path) -> None:
    llm = scripted(tmp_path, 3, "abcd")
    generation = llm.stream("f(", stop_token_ids=TOKENIZER.encode("c"))
    assert generation.text() == "ab"
    assert (generation.finish_reason, generation.stop_reason) == ("stop", TOKENIZER.encode("c")[0])


def test_an_answer_ends_at_the_requested_length(tmp_path: Path) -> None:
    llm = scripted(tmp_path, 3, "abcdefgh")
    generation = llm.stream("f(", max_tokens=3)
    assert (generation.text(), generation.finish_reason) == ("abc", "length")
    # What was held back for a stop string that never came is shown in the end.
    generation = llm.stream("f(", max_tokens=3, stop=["bcx"])
    assert (generation.text(), generation.finish_reason) == ("abc", "length")


def test_a_character_cut_by_the_length_becomes_a_replacement(tmp_path: Path) -> None:
    llm = scripted(tmp_path, 3, "é")
    assert llm.stream("f(", max_tokens=2).text() == "é"
    assert llm.stream("f(", max_tokens=1).text() == "\N{REPLACEMENT CHARACTER}"


def test_an_answer_ends_at_the_end_of_the_context_and_never_dies(tmp_path: Path) -> None:
    llm = scripted(tmp_path, 3, "a" * POSITIONS)
    generation = llm.stream("f(")
    # The last token is sampled from the last position and has no place of its own.
    assert generation.text() == "a" * (POSITIONS - 3 + 1)
    assert generation.finish_reason == "context"
    assert llm.stream("f(", max_tokens=2).text() == "aa"


def test_a_prompt_that_fills_the_context_gets_one_token(llm: LLM) -> None:
    generation = llm.stream("a" * (POSITIONS - 1))
    assert [chunk.finish_reason for chunk in generation] == ["context"]
    with pytest.raises(RequestError, match=f"prompt has {POSITIONS + 1} tokens.*{POSITIONS}"):
        llm.stream("a" * POSITIONS)


@pytest.mark.parametrize("context", [2, 7, 3 * BLOCK])
def test_a_context_is_kept_to_the_token(tmp_path: Path, context: int) -> None:
    llm = scripted(tmp_path, 3, [65] * 60, context=context)
    assert llm.context == context
    if context < 3:
        with pytest.raises(RequestError, match="3 tokens, and the context holds 2"):
            llm.stream("f(")
        return
    generation = llm.stream("f(")
    assert len(generation.text()) == context - 3 + 1
    assert generation.finish_reason == "context"


def test_greedy_decoding_is_the_argmax_of_each_step(llm: LLM) -> None:
    tokens = [chunk.token for chunk in llm.stream("hello", max_tokens=12)]
    assert tokens == greedy(llm.prompts.completion("hello"), 12)


def test_a_drawn_seed_is_told(llm: LLM) -> None:
    first = llm.stream("hello", temperature=3000.0, max_tokens=20)
    text = first.text()
    again = llm.stream("hello", temperature=3000.0, max_tokens=20, seed=first.seed)
    assert again.text() == text


@settings(max_examples=30)
@given(
    prompts=st.lists(st.text("ab", max_size=30), min_size=2, max_size=4),
    max_tokens=st.integers(1, 12),
)
def test_a_reused_prefix_changes_the_cost_and_not_the_text(
    folder: Path, prompts: list[str], max_tokens: int
) -> None:
    fresh = EngineSettings(threads=1, prefix_cache=False)
    with open_engine(folder, threads=1) as reusing, LLM(folder, settings=fresh) as plain:
        known: list[list[int]] = []
        for prompt in prompts:
            ids = [BOS, *TOKENIZER.encode(prompt)]
            params = SamplingParams(temperature=5000.0, seed=11, max_tokens=max_tokens)
            again, once = reusing.stream(ids, params), plain.stream(ids, params)
            tokens = [chunk.token or 0 for chunk in again]
            assert tokens == [chunk.token or 0 for chunk in once]
            common = max((_common(each, ids[:-1]) for each in known), default=0)
            assert again.usage.cached_tokens == common
            assert once.usage.cached_tokens == 0
            known.append(ids + tokens[:-1])  # the last token is sampled but never run


def _common(one: list[int], two: list[int]) -> int:
    count = 0
    while count < min(len(one), len(two)) and one[count] == two[count]:
        count += 1
    return count


def test_the_next_turn_of_a_chat_computes_only_what_is_new(tmp_path: Path) -> None:
    first = [Message("user", "hi")]
    length = len(TOKENIZER.encode("User: hi\n\nAssistant:")) + 1
    llm = scripted(tmp_path, length, [*TOKENIZER.encode(" yo"), EOS])
    assert llm.stream_chat(first).text() == "yo"
    second = [*first, Message("assistant", "yo"), Message("user", "x")]
    generation = llm.stream_chat(second, max_tokens=1)
    generation.text()
    assert generation.usage.cached_tokens == length + len(" yo")


def test_filling_asks_with_the_markers(tmp_path: Path) -> None:
    # BOS, begin, 2 bytes, hole, 1 byte, end: the answer starts after 7 tokens.
    llm = scripted(tmp_path, 7, [*TOKENIZER.encode("mid"), EOS])
    assert llm.prompts.fim("ab", "c")[-1] == FIM_END
    assert llm.stream_fill("ab", "c").text() == "mid"


def test_a_closed_answer_says_so_and_frees_its_blocks(folder: Path) -> None:
    with open_engine(folder) as llm:
        generation = llm.stream("hello", ignore_eos=True)
        next(generation)
        generation.close()
        assert generation.finish_reason == "cancelled"
        assert list(generation) == []
        core = llm.engine.thread.core
        llm.engine.thread.call(core.scheduler.check).result()
        llm.engine.thread.call(core.scheduler.cache.clear).result()
        assert core.scheduler.cache.num_available == core.scheduler.cache.num_blocks


def test_an_answer_that_nobody_reads_any_more_ends(folder: Path) -> None:
    with open_engine(folder) as llm:
        next(llm.stream("hello", ignore_eos=True))
        # The iterator is gone; the engine notices within a step.
        assert not llm.engine.thread.call(lambda: llm.engine.thread.core.has_work).result()


def test_an_engine_that_is_closed_ends_its_answers_and_takes_no_more(folder: Path) -> None:
    llm = open_engine(folder)
    generation = llm.stream("hello", ignore_eos=True)
    next(generation)
    llm.close()
    with pytest.raises(BusyError, match="the engine was closed"):
        generation.text()
    with pytest.raises(BusyError, match="the engine is closed"):
        llm.stream("hello")


def test_threads_share_an_engine(llm: LLM) -> None:
    expected = {word: llm.stream(word, max_tokens=9).text() for word in ("one", "two", "three")}
    found: dict[str, str] = {}

    def ask(word: str) -> None:
        found[word] = llm.stream(word, max_tokens=9).text()

    threads = [threading.Thread(target=ask, args=(word,)) for word in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_logprobs_come_with_each_chunk(llm: LLM) -> None:
    chunks = list(llm.stream("hi", logprobs=3, max_tokens=2))
    logits = expected_logits(llm.prompts.completion("hi")).astype(np.float64)
    best = math.log(1 / np.exp(logits - logits.max()).sum())
    assert chunks[0].logprob == pytest.approx(best)
    assert [len(chunk.top_logprobs) for chunk in chunks] == [3, 3]
    assert chunks[0].top_logprobs[0] == (chunks[0].token, chunks[0].logprob)


# -- many answers


def test_prompts_are_answered_in_their_order(llm: LLM) -> None:
    prompts = ["a", "bb", [BOS, 1, 2], {"prompt": "c"}, {"prompt_token_ids": [BOS, 9]}]
    outputs = llm.generate(prompts, max_tokens=5)  # type: ignore[arg-type]
    for given_prompt, output in zip(prompts, outputs, strict=True):
        if isinstance(given_prompt, str):
            assert output.prompt == given_prompt
        assert output.outputs[0].token_ids == greedy(list(output.prompt_token_ids), 5)
        assert output.outputs[0].finish_reason == "length"
    assert outputs[2].prompt_token_ids == (BOS, 1, 2)


def test_more_prompts_than_the_queue_holds_are_answered(folder: Path) -> None:
    with LLM(folder, settings=EngineSettings(max_batch=2, max_queue=3)) as llm:
        outputs = llm.generate([[BOS, token] for token in range(40)], max_tokens=2)
    assert [output.outputs[0].token_ids for output in outputs] == [
        greedy([BOS, token], 2) for token in range(40)
    ]


def test_each_prompt_may_have_its_own_parameters(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=2), SamplingParams(max_tokens=4, n=2, temperature=900.0)]
    outputs = llm.generate(["a", "b"], params)
    assert [len(answer.token_ids) for output in outputs for answer in output.outputs] == [2, 4, 4]
    with pytest.raises(RequestError, match="sampling_params: 2 for 1 prompts"):
        llm.generate("a", params)


def test_the_model_cards_last_snippet_runs_with_its_imports_changed(folder: Path) -> None:
    max_model_len, tp_size = 64, 1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llm = LLM(
        model=str(folder),
        tensor_parallel_size=tp_size,
        max_model_len=max_model_len,
        trust_remote_code=True,
        enforce_eager=True,
    )
    assert tokenizer.eos_token_id is not None
    sampling_params = SamplingParams(
        temperature=0.3, max_tokens=256, stop_token_ids=[tokenizer.eos_token_id]
    )
    messages_list = [
        [{"role": "user", "content": "Who?"}],
        [{"role": "user", "content": "quick sort"}],
        [{"role": "user", "content": "in C++."}],
    ]
    prompt_token_ids = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        for messages in messages_list
    ]
    outputs = llm.generate(prompt_token_ids=prompt_token_ids, sampling_params=sampling_params)
    generated_text = [output.outputs[0].text for output in outputs]
    assert len(generated_text) == 3
    assert [list(output.prompt_token_ids) for output in outputs] == prompt_token_ids
    with pytest.raises(RequestError, match="tensor_parallel_size is 8"):
        LLM(folder, tensor_parallel_size=8)


def test_chats_and_holes_may_be_many(llm: LLM) -> None:
    one = [Message("user", "hi")]
    assert len(llm.chat(one, max_tokens=1)) == 1
    assert len(llm.chat([one, one], max_tokens=1)) == 2
    assert len(llm.fill(("a", "b"), max_tokens=1)) == 1
    assert len(llm.fill([("a", "b"), ("c", "d"), ("e", "")], max_tokens=1)) == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "give either prompts or prompt_token_ids"),
        ({"prompts": "a", "prompt_token_ids": [1]}, "give either"),
        ({"prompts": 5}, "expected text, token ids or a list"),
        ({"prompts": [["a"]]}, r"prompts\[0\]: expected text or token ids"),
        ({"prompts": [{"text": "a"}]}, r"prompts\[0\]: expected text or token ids"),
        ({"prompts": [[]]}, r"prompts\[0\]: expected text or token ids"),
        ({"prompts": ["a", [9999]]}, "token id 9999, outside the vocabulary"),
        ({"prompts": "a", "max_tokens": 0}, "max_tokens is 0"),
        ({"prompts": "a", "sampling_params": HOT, "seed": 3}, "seed: given beside"),
    ],
)
def test_a_bad_batch_fails_before_anything_is_computed(
    llm: LLM, arguments: dict[str, object], error: str
) -> None:
    before = llm.engine.thread.core.stats.requests
    with pytest.raises(RequestError, match=error):
        llm.generate(**arguments)  # type: ignore[arg-type]
    assert llm.engine.thread.core.stats.requests == before


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"threads": 0}, "threads is 0; it must be a whole number from 1 to 1024"),
        ({"threads": 100_000}, "threads is 100000"),
        ({"context": 1}, "context is 1; it must be a whole number at least 2"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"gap_seconds": 0}, "gap_seconds is 0"),
    ],
)
def test_a_bad_setting_is_refused_by_name(settings: dict[str, int], error: str) -> None:
    with pytest.raises(RequestError, match=error):
        EngineSettings(**settings)  # type: ignore[arg-type]


# -- loading


def test_an_engine_without_a_capability_is_refused_before_it_loads(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "engine", toy_manifest(fim=False))
    (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size)
    with pytest.raises(RequestError, match="not trained to fill in the middle"):
        open_engine(folder, capability="fim")


def test_a_changed_file_is_named_even_when_the_graph_does_not_load(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "engine")
    (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size)
    with pytest.raises(EngineError, match=r"model\.onnx has sha256"):
        open_engine(folder)
    data = (folder / "tokenizer.json").read_text()
    folder = write_toy_engine(tmp_path / "other")
    (folder / "tokenizer.json").write_text(data.replace("fim", "fom"))
    with pytest.raises(EngineError, match=r"tokenizer\.json has sha256"):
        open_engine(folder)


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ({}, 0.0),
        ({"do_sample": True, "temperature": 0.3, "top_p": 0.95}, 0.3),
        ({"do_sample": True}, 1.0),
        ({"do_sample": False, "temperature": 0.3}, 0.0),
        ({"temperature": 0.3}, 0.3),
    ],
)
def test_the_checkpoints_advice_is_taken_where_the_user_gives_none(
    tmp_path: Path, defaults: dict[str, float], expected: float
) -> None:
    advice = SamplingDefaults(**defaults)  # type: ignore[arg-type]
    manifest = dataclasses.replace(toy_manifest(), sampling=advice)
    with open_engine(write_toy_engine(tmp_path / "engine", manifest)) as llm:
        core = llm.engine.thread.core

        def prepared(**params: float) -> SamplingParams:
            request = Request((BOS,), SamplingParams(**params))  # type: ignore[arg-type]
            return core.prepare(request, lambda event: None).params

        assert prepared().temperature == expected
        assert prepared().top_p == (defaults.get("top_p") or 1.0)
        assert prepared(temperature=0.7, top_p=0.5).temperature == 0.7
        assert prepared(temperature=0.7, top_p=0.5).top_p == 0.5
