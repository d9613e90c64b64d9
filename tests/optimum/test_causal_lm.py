"""An engine under transformers' generation, beside transformers' own model of the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, pipeline

from tests.engines import build_engine, write_checkpoint
from tests.export.targets.checkpoints.test_readers import load
from trtcoder.errors import ContextError, EngineError, RequestError
from trtcoder.optimum import EngineForCausalLM
from trtcoder.testing.random_checkpoint import tiny_config

# Both compute in float32, in another order.
TOLERANCE = 1e-4
# A row is longer than a block of the cache, which has 16 tokens.
PROMPTS = [[5, 300, 17, 44, 291, 8, 101, 5, 77, 350, 12, 6, 9, 4, 31, 18, 90], [77, 12], [9]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two of torch's threads wait for each other long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("optimum")
    checkpoint = write_checkpoint(root / "checkpoint", tiny_config())
    build_engine(checkpoint, root / "engine")
    return root / "checkpoint", root / "engine"


@pytest.fixture(scope="module")
def reference(folders: tuple[Path, Path]) -> Any:
    return load(folders[0], torch.float32)


@pytest.fixture(scope="module")
def model(folders: tuple[Path, Path]) -> Any:
    return EngineForCausalLM.from_pretrained(folders[1], cache_tokens=1024)


@pytest.fixture
def small(folders: tuple[Path, Path]) -> Any:
    return EngineForCausalLM.from_pretrained(folders[1], cache_tokens=64)


def batch(prompts: list[list[int]], *, left: bool = True) -> dict[str, torch.Tensor]:
    """Return prompts as one batch, padded on one side with a token that is in the vocabulary."""
    width = max(map(len, prompts))
    rows = [(width - len(prompt), prompt) for prompt in prompts]
    ids = [[7] * pad + row if left else row + [7] * pad for pad, row in rows]
    mask = [[0] * pad + [1] * len(row) if left else [1] * len(row) + [0] * pad for pad, row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def answers(model: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    """Return what a model writes after each prompt of a batch."""
    found = model.generate(**batch(prompts), pad_token_id=7, **options)
    start = max(map(len, prompts))
    return [row[start:] for row in found.tolist()]


def test_greedy_answers_of_a_padded_batch_are_transformers_own(model: Any, reference: Any) -> None:
    options = {"max_new_tokens": 20, "do_sample": False}
    found = answers(model, PROMPTS, **options)
    assert found == [answers(reference, [prompt], **options)[0] for prompt in PROMPTS]


def test_sampled_answers_draw_as_transformers_does(model: Any, reference: Any) -> None:
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.7, "top_k": 40}
    both = []
    for each in (model, reference):
        torch.manual_seed(3)
        both.append(answers(each, PROMPTS, **options))
    assert both[0] == both[1]
    assert both[0] != answers(model, PROMPTS, max_new_tokens=12, do_sample=False)


def test_beams_go_on_from_the_rows_that_they_copy(model: Any, reference: Any) -> None:
    options = {"max_new_tokens": 12, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}
    found = answers(model, PROMPTS[:2], **options)
    assert found == answers(reference, PROMPTS[:2], **options)
    assert found[0] != found[1]


@settings(max_examples=15)
@given(data=st.data())
def test_logits_are_those_of_each_row_alone_wherever_its_padding_is(
    model: Any, data: st.DataObject
) -> None:
    rows, first, second = (data.draw(st.integers(1, most)) for most in (3, 20, 20))
    size = (rows, first + second)
    flat = st.lists(
        st.booleans(), min_size=rows * (first + second), max_size=rows * (first + second)
    )
    shown = np.array(data.draw(flat)).reshape(size)
    model._forward.chunk = data.draw(st.sampled_from([1, 3, 512]))
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 400, size))
    mask = torch.from_numpy(shown.astype(np.int64))
    begun = model(ids[:, :first], mask[:, :first])
    ended = model(ids[:, first:], mask, past_key_values=begun.past_key_values)
    found = torch.cat([begun.logits, ended.logits], 1)
    assert ended.past_key_values.get_seq_length() == first + second
    for row in range(rows):
        assert not found[row][~shown[row]].any()
        if shown[row].any():
            alone = model(ids[row : row + 1, shown[row]]).logits[0]
            assert torch.allclose(found[row][shown[row]], alone, atol=TOLERANCE)
    model._forward.chunk = 512


def test_logits_are_transformers_own(model: Any, reference: Any) -> None:
    ids = torch.tensor(PROMPTS[:1])
    with torch.inference_mode():
        wanted = reference(ids).logits
    assert torch.allclose(model(ids).logits, wanted, atol=TOLERANCE)
    assert torch.equal(model(ids, logits_to_keep=3).logits, model(ids).logits[:, -3:])


def test_blocks_go_back_when_a_cache_is_dropped(small: Any) -> None:
    free = small._forward.pool.num_free
    held = small(torch.tensor(PROMPTS[:1])).past_key_values
    assert small._forward.pool.num_free == free - 2
    del held
    assert small._forward.pool.num_free == free
    answers(small, [[5], [6]], max_new_tokens=4, num_beams=2)
    assert small._forward.pool.num_free == free


def test_a_full_cache_is_refused_and_the_next_batch_runs(small: Any) -> None:
    free = small._forward.pool.num_free
    with pytest.raises(RequestError, match="64 tokens, for all rows together"):
        small(torch.zeros((3, 30), dtype=torch.int64))
    with pytest.raises(RequestError, match="more cache_tokens"):
        answers(small, [[5]] * 2, max_new_tokens=40, num_beams=2)
    assert small._forward.pool.num_free == free
    assert small(torch.zeros((2, 30), dtype=torch.int64)).logits.shape[:2] == (2, 30)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda m: m(torch.tensor([5, 6])), r"shape \[2\]"),
        (lambda m: m(torch.tensor([[0.5]])), "whole numbers"),
        (lambda m: m(torch.tensor([[5, -1]])), "token id -1, outside"),
        (lambda m: m(torch.tensor([[5]]), torch.ones((1, 2))), r"must be \[1, 1\]"),
        (lambda m: m(torch.tensor([[5]]), past_key_values=m(torch.ones((2, 1), dtype=torch.int64))
                     .past_key_values), "has 2 rows"),
        (lambda m: m.generate(**batch(PROMPTS, left=False), max_new_tokens=1), "row 1 ends with"),
        (lambda m: m.generate(torch.tensor([[5]]), prompt_lookup_num_tokens=3), "trtcoder.LLM"),
        (lambda m: m.to("cuda"), "device cuda"),
        (lambda m: m.from_pretrained("engine", export=True), "trtcoder build"),
        (lambda m: m.from_pretrained("engine", provider="CUDAExecutionProvider"), "CPU's only"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    model: Any, run: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        run(model)


def test_a_row_longer_than_the_context_is_refused(small: Any) -> None:
    with pytest.raises(ContextError, match="65 tokens, and the context holds 64"):
        small(torch.zeros((1, 65), dtype=torch.int64))


def test_what_is_no_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="manifest"):
        EngineForCausalLM.from_pretrained(tmp_path)


def test_transformers_pipeline_takes_an_engine(model: Any, folders: tuple[Path, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers about its own arguments
        tokenizer: Any = AutoTokenizer.from_pretrained(folders[0], padding_side="left")
        tokenizer.pad_token_id = tokenizer.eos_token_id
        pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
        found = pipe(["ab", "a longer one"], max_new_tokens=5, do_sample=False, batch_size=2)
    texts = [each[0]["generated_text"] for each in found]
    for prompt, text in zip(["ab", "a longer one"], texts, strict=True):
        ids = tokenizer.encode(prompt)
        (answer,) = answers(model, [ids], max_new_tokens=5, do_sample=False)
        assert text == prompt + tokenizer.decode(answer, skip_special_tokens=True)
