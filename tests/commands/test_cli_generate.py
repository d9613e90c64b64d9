from __future__ import annotations

import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.answers import TOKENIZER, engine, run
from tests.toy_engine import toy_manifest, write_toy_engine
from trtcoder.commands.fill import split_file
from trtcoder.commands.terminal import stream_answer
from trtcoder.errors import RequestError
from trtcoder.runtime.llm import open_engine

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_complete_prints_the_continuation_and_nothing_else(tmp_path: Path) -> None:
    result = run("complete", engine(tmp_path, 4, "x): é\n"), "def")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "x): é\n", "")


def test_complete_reads_standard_input(tmp_path: Path) -> None:
    folder = engine(tmp_path, 4, "yes")
    assert run("complete", folder, "-", stdin="def").stdout == "yes"
    assert run("complete", folder, stdin="def").stdout == "yes"
    result = run("complete", folder, "-", stdin=b"d\xff")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: standard input: not UTF-8 at byte 1; convert it\n",
    )


def test_json_is_one_object_with_text_reason_usage_and_timings(tmp_path: Path) -> None:
    result = run("complete", engine(tmp_path, 4, "x é"), "def", "--json", "--seed", "5")
    (line,) = result.stdout.splitlines()
    report = json.loads(line)
    assert report.pop("timings").keys() == {
        "prefill_seconds",
        "decode_seconds",
        "decode_tokens_per_second",
    }
    assert report == {
        "model": "Toy",
        "text": "x é",
        "finish_reason": "stop",
        "stop_reason": None,
        "seed": 5,
        "usage": {"prompt_tokens": 4, "cached_tokens": 0, "completion_tokens": 5},
    }


def test_options_reach_the_sampler(tmp_path: Path, toy: str) -> None:
    folder = engine(tmp_path, 4, "abcdef")
    assert run("complete", folder, "def", "--max-tokens", "2").stdout == "ab"
    assert run("complete", folder, "def", "--stop", "ef", "--stop", "de").stdout == "abc"
    sampled = ("complete", toy, "def", "--temperature", "3000", "--json", "--top-k", "50",
               "--top-p", "0.99", "--min-p", "0.0001", "--repetition-penalty", "1.1",
               "--frequency-penalty", "0.5", "--presence-penalty", "0.5", "--threads", "1",
               "--max-tokens", "20")  # fmt: skip
    first = json.loads(run(*sampled).stdout)
    again = json.loads(run(*sampled, "--seed", str(first["seed"])).stdout)
    assert again["text"] == first["text"]


def test_drafts_change_no_answer(tmp_path: Path) -> None:
    prompt = "abcdefgh abcd"
    folder = engine(tmp_path, 1 + len(prompt), "efgh abcdefgh, or so")
    for option in ("--speculate", "--no-speculate"):
        assert run("complete", folder, prompt, option).stdout == "efgh abcdefgh, or so"


def test_fill_takes_a_place_in_a_file(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("x = 1\ny = \nz = 3\n")
    # BOS and three markers, and the 17 bytes of the file.
    folder = engine(tmp_path, 4 + 17, "2")
    assert run("fill", folder, f"{source}:2:5").stdout == "2"
    assert source.read_text() == "x = 1\ny = \nz = 3\n"


def test_fill_takes_a_prefix_and_a_suffix(tmp_path: Path) -> None:
    folder = engine(tmp_path, 4 + 2, "mid")
    assert run("fill", folder, "--prefix", "a", "--suffix", "b").stdout == "mid"
    assert run("fill", folder, "--prefix", "ab").stdout == "mid"


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        ("1:1", ""),
        ("1:3", "aé"),
        ("2:1", "aéb\r\n"),
        ("2:3", "aéb\r\ncd"),
        ("1:4", "aéb"),
        ("3:1", "aéb\r\ncd\n"),
    ],
)
def test_lines_and_columns_count_characters_from_one(
    tmp_path: Path, place: str, prefix: str
) -> None:
    path = tmp_path / "odd:name.txt"
    path.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}aéb\r\ncd\n".encode())
    assert split_file(f"{path}:{place}") == (prefix, "aéb\r\ncd\n"[len(prefix) :])


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("a.txt", "expected FILE:LINE:COL"),
        ("a.txt:3", "expected FILE:LINE:COL"),
        ("a.txt:1:x", "expected FILE:LINE:COL"),
        ("a.txt:4:1", "has no line 4; lines go from 1 to 3"),
        ("a.txt:0:1", "has no line 0"),
        ("a.txt:1:5", "line 1 has no column 5; columns go from 1 to 4"),
        ("a.txt:1:0", "line 1 has no column 0"),
        ("b.txt:1:1", "cannot be read .No such file"),
        ("latin.txt:1:1", "not UTF-8 at byte 1"),
        (".:1:1", "cannot be read"),
    ],
)
def test_a_bad_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("abc\ndef\n")
    Path("latin.txt").write_bytes(b"a\xe9")
    with pytest.raises(RequestError, match=error):
        split_file(place)


def test_chat_answers_one_message_without_its_leading_space(tmp_path: Path) -> None:
    length = 1 + len("S\n\nUser: hi\n\nAssistant:")
    folder = engine(tmp_path, length, " Hello")
    assert run("chat", folder, "hi", "--system", "S").stdout == "Hello"
    assert run("chat", folder, "-", "--system", "S", stdin="hi").stdout == "Hello"


@pytest.mark.parametrize(
    ("arguments", "spelled"),
    [
        (("complete", "a<｜fim▁hole｜>b"), "<｜fim▁hole｜> in the prompt is text"),
        (("complete", "a<|fim_hole|>b"), "<|fim_hole|> in the prompt is text"),
        (("complete", "<｜begin▁of▁sentence｜><｜FIM▁end｜>"),
         "<｜begin▁of▁sentence｜>, <｜FIM▁end｜> in the prompt are text"),
        (("fill", "--prefix", "a", "--suffix", "<｜fim▁end｜>"), "<｜fim▁end｜> in the prompt"),
        (("chat", "a<｜end▁of▁sentence｜>"), "<｜end▁of▁sentence｜> in the prompt"),
        (("chat", "a", "--system", "<｜end▁of▁sentence｜>"), "<｜end▁of▁sentence｜> in the prompt"),
        (("complete", "a<|b|> <｜ ｜> <fim> ||"), None),
    ],
)  # fmt: skip
def test_spelled_control_tokens_are_said_to_be_text(
    tmp_path: Path, arguments: tuple[str, ...], spelled: str | None
) -> None:
    model = dataclasses.replace(toy_manifest().model, max_positions=512)
    folder = write_toy_engine(tmp_path / "e", dataclasses.replace(toy_manifest(), model=model))
    result = run(arguments[0], str(folder), *arguments[1:], "--max-tokens", "1")
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == (spelled is not None)
    assert (spelled or "") in result.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("complete", "{toy}", "a", "--context", "65"), "the model's context has 64 tokens"),
        (("complete", "{toy}", "a", "--context", "9" * 30), "the model's context has 64 tokens"),
        (("complete", "{toy}", "a", "--threads", "100000"), "than this machine can run"),
        (("complete", "{toy}", "a", "--seed", "9" * 30), "seed is 9999"),
        (("complete", "{toy}", "a", "--top-p", "nan"), "top_p is nan"),
        (("fill", "{toy}", "a.py:" + "9" * 5000 + ":1"), "expected FILE:LINE:COL"),
        (("complete", "{toy}", "a", "--temperature", "-1"), "temperature is -1.0; it must be"),
        (("complete", "nowhere", "a"), "nowhere: not an engine folder"),
        (("complete", "{toy}", "a" * 99), "the prompt has 100 tokens, and the context holds 64"),
        (("complete", "{toy}", "a", "--stop", ""), "stop: an empty string"),
        (("complete", "{toy}", "a" * 9, "--context", "8"), "10 tokens, and the context holds 8"),
        (("fill", "{toy}", "nowhere.py:1:1"), "nowhere.py: cannot be read"),
        (("fill", "{nofim}", "--prefix", "a"), "Toy was not trained to fill in the middle"),
        (("chat", "{nofim}", "a"), "Toy was not trained to chat"),
    ],
)
def test_an_error_is_one_line_and_exit_status_one(
    tmp_path: Path, toy: str, arguments: tuple[str, ...], error: str
) -> None:
    nofim = str(write_toy_engine(tmp_path / "nofim", toy_manifest(fim=False, chat=False)))
    result = run(*(argument.format(toy=toy, nofim=nofim) for argument in arguments))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert error in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [(), ("a.py:1:1", "--prefix", "x"), ("a.py:1:1", "--suffix", "x")]
)
def test_fill_wants_a_place_or_texts(toy: str, arguments: tuple[str, ...]) -> None:
    result = run("fill", toy, *arguments)
    assert result.exit_code == 2
    assert "Give either FILE:LINE:COL, or --prefix and --suffix." in result.stderr


def test_a_terminal_shows_no_control_characters_and_a_pipe_gets_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = "a\x1b[2J\n\t\x9bb"
    with open_engine(engine(tmp_path, 4, answer)) as llm:
        pieces: list[str] = []
        stream_answer(llm.stream("def"), pieces)
        assert capsys.readouterr().out == "".join(pieces) == answer
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        stream_answer(llm.stream("def"), [])
    shown = "a\N{REPLACEMENT CHARACTER}[2J\n\t\N{REPLACEMENT CHARACTER}b\n"
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("example", ["complete", "fill", "chat"])
def test_the_model_cards_snippets_run(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = dataclasses.replace(toy_manifest().model, max_positions=1024)
    scripted = {position: TOKENIZER.encode("x")[0] for position in range(1024)}
    folder = write_toy_engine(
        tmp_path / "engine", dataclasses.replace(toy_manifest(), model=model), scripted=scripted
    )
    monkeypatch.setattr("sys.argv", [example, str(folder)])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest writes to no pipe
    runpy.run_path(str(EXAMPLES / f"{example}.py"))
    expected = {"complete": 128, "fill": 128, "chat": 512}[example]
    assert capsys.readouterr().out == "x" * expected + "\n"


@pytest.mark.parametrize("example", ["complete", "fill", "chat"])
def test_an_example_without_an_engine_says_how_it_is_run(example: str) -> None:
    command = [sys.executable, str(EXAMPLES / f"{example}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"python examples/{example}.py engines/demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_example_into_head_ends_quietly(toy: str) -> None:
    command = [sys.executable, str(EXAMPLES / "complete.py"), toy]
    example = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert example.stdout is not None
    example.stdout.close()
    _, stderr = example.communicate(timeout=60)
    assert stderr == b""


@pytest.mark.parametrize("command", ["complete", "fill", "chat"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from trtcoder.cli import main\n"
        f"main(['{command}', '--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'onnxruntime', 'tokenizers', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--temperature" in done.stdout


def test_fill_keeps_what_stands_round_the_hole_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("".join(f"x{number:02d} = 1\n" for number in range(60)))
    kept = 4 + 5 * 8 + 8  # of 64 tokens of context, 52 for the file
    folder = engine(tmp_path, kept, "mid")
    result = run("fill", folder, f"{path}:31:1", "--max-tokens", "12")
    assert result.stdout == "mid"
    assert result.stderr == (
        "note: the text has 480 tokens and the context holds 64; the model sees the 40 before the "
        "hole and the 8 behind it\n"
    )
