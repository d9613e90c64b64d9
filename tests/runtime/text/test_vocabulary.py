from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.text.vocabulary import Vocabulary

DEMO = Path(__file__).parents[3] / "demo" / "checkpoint" / "tokenizer.json"
TOKENIZER = TextTokenizer.load(DEMO)
SIZE = TOKENIZER._full.get_vocab_size()
BYTES = [TOKENIZER.token_bytes(token) for token in range(SIZE)]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENIZER, SIZE)


@given(st.text(min_size=1, max_size=12).map(str.encode) | st.binary(min_size=1, max_size=6))
def test_compatible_tokens_are_those_that_a_look_at_each_finds(
    vocabulary: Vocabulary, beginning: bytes
) -> None:
    expected = {
        token
        for token, data in enumerate(BYTES)
        if data and (data.startswith(beginning) or beginning.startswith(data))
    }
    found = vocabulary.compatible(beginning).tolist()
    assert set(found) == expected
    assert len(found) == len(expected)


@given(st.sampled_from([data for data in BYTES if data.endswith(b"\xff")] or [b"\xff\xff"]))
def test_the_last_bytes_have_their_tokens(vocabulary: Vocabulary, beginning: bytes) -> None:
    found = {BYTES[token] for token in vocabulary.compatible(beginning).tolist()}
    assert all(beginning.startswith(data) or data.startswith(beginning) for data in found)
