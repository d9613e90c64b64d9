"""Files with the line ends of Windows, in `fill` and `complete`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.toy_engine import EOS, byte_tokenizer, script, write_toy_engine
from trtcoder.cli import main
from trtcoder.prompting.tokenizer import TextTokenizer

ANSWER = "2\n\ny"


def engine(folder: Path, prompt_tokens: int, answer: str = ANSWER) -> str:
    """An engine that gives the answer only to a prompt of this many tokens."""
    tokens = TextTokenizer(byte_tokenizer()).encode(answer)
    return str(write_toy_engine(folder / "engine", scripted=script(prompt_tokens, [*tokens, EOS])))


def run(*arguments: str, stdin: bytes | None = None) -> bytes:
    result = CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


# Written, seen by the model, and how its answer comes back.
FILES = [
    pytest.param(b"x = 1\r\ny = \r\n", b"x = 1\ny = \n", b"2\r\n\r\ny", id="windows"),
    pytest.param(b"x = 1\ny = \n", b"x = 1\ny = \n", b"2\n\ny", id="unix"),
    pytest.param(b"x = 1\r\ny = \n", b"x = 1\r\ny = \n", b"2\n\ny", id="mixed"),
    pytest.param(b"\xef\xbb\xbfx = 1\r\ny = \r\n", b"x = 1\ny = \n", b"2\r\n\r\ny", id="mark"),
]


@pytest.mark.parametrize(("written", "seen", "answer"), FILES)
def test_fill_shows_the_model_its_own_line_ends(
    tmp_path: Path, written: bytes, seen: bytes, answer: bytes
) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(written)
    folder = engine(tmp_path, 4 + len(seen))
    assert run("fill", folder, f"{path}:2:5") == answer
    assert json.loads(run("fill", folder, f"{path}:2:5", "--json"))["text"].encode() == answer
    assert path.read_bytes() == written


@pytest.mark.parametrize(("written", "seen", "answer"), FILES)
def test_complete_shows_the_model_its_own_line_ends(
    tmp_path: Path, written: bytes, seen: bytes, answer: bytes
) -> None:
    folder = engine(tmp_path, 1 + len(seen))
    assert run("complete", folder, "-", stdin=written) == answer
    report = json.loads(run("complete", folder, "-", "--json", stdin=written))
    assert report["text"].encode() == answer


def test_a_file_of_old_macintosh_is_left_as_it_is(tmp_path: Path) -> None:
    folder = engine(tmp_path, 1 + len(b"a\rb\r"))
    assert run("complete", folder, "-", stdin=b"a\rb\r") == ANSWER.encode()


def test_prefix_and_suffix_are_one_text(tmp_path: Path) -> None:
    folder = engine(tmp_path, 4 + len("a\nb"))
    assert run("fill", folder, "--prefix", "a\r\n", "--suffix", "b") == b"2\r\n\r\ny"


@pytest.mark.parametrize("stop", ["\n\n", "\r\n\r\n"])
def test_stop_strings_are_met_in_either_spelling(tmp_path: Path, stop: str) -> None:
    folder = engine(tmp_path, 1 + len("a\n"))
    assert run("complete", folder, "a\r\n", "--stop", stop) == b"2"


def test_a_model_that_writes_windows_line_ends_gets_no_second_return(tmp_path: Path) -> None:
    folder = engine(tmp_path, 1 + len("a\n"), "x\r\ny\n")
    assert run("complete", folder, "a\r\n") == b"x\r\ny\r\n"
