from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.answers import engine, run
from trtcoder.commands.chat import Conversation
from trtcoder.commands.generation_options import GenerationOptions
from trtcoder.prompting.prompts import Message
from trtcoder.runtime.llm import open_engine
from trtcoder.runtime.requests.events import Chunk
from trtcoder.runtime.requests.generation import Generation
from trtcoder.runtime.requests.request import Request


def test_a_conversation_remembers_and_obeys(tmp_path: Path) -> None:
    length = 1 + len("User: hi\n\nAssistant:")
    folder = engine(tmp_path, length, " Yo")
    lines = "hi\nhi\n/reset\nhi\n/system A\nhi\n/system\nhi\n/help\n/what\n\n/quit\nhi\n"
    result = run("chat", folder, "--json", "--max-tokens", "4", stdin=lines)
    reports = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    usages = [report["usage"] for report in reports]
    assert [usage["prompt_tokens"] for usage in usages] == [
        length,
        # The answer, with a space before it, and its end-of-sequence token.
        length + len(" Yo") + 1 + len("User: hi\n\nAssistant:"),
        length,
        length + len("A\n\n"),
        length,
    ]
    assert usages[1]["cached_tokens"] == length + len(" Yo")
    assert reports[0]["text"] == reports[2]["text"] == reports[4]["text"] == "Yo"
    assert "/reset" in result.stdout
    assert "/what is unknown" in result.stderr


def test_a_conversation_that_outgrows_the_context_can_be_reset(tmp_path: Path) -> None:
    length = 1 + len("User: hi\n\nAssistant:")
    folder = engine(tmp_path, length, " Yo")
    result = run("chat", folder, stdin="hi\n" + "x" * 60 + "\n/reset\nhi\n")
    assert result.stdout == "Yo\nYo\n"
    assert "/reset starts again" in result.stderr
    # Nobody was there to read the error.
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("lines", "status", "message"),
    [
        (b"hi\n/reset\n/system A\n/system\n/help\n", 0, "the conversation starts again"),
        (b"/system A\n", 0, "the system message is set, the conversation starts again"),
        (b"/system\n", 0, "the system message is removed"),
        (b"/what\n", 1, "Error: /what is unknown"),
        (b"hi\nx\xff\n", 1, "Error: standard input, line 2: not UTF-8 at byte 1"),
        ("x" * 60 + "\n", 1, "Error: the prompt has"),
    ],
)
def test_a_piped_conversation_says_what_it_did_and_ends_with_its_status(
    toy: str, lines: str | bytes, status: int, message: str
) -> None:
    result = run("chat", toy, "--max-tokens", "2", stdin=lines)
    assert result.exit_code == status, result.output
    assert message in result.stderr


class Interrupted(Generation):
    """An answer during which Ctrl-C is pressed after the first chunk."""

    def __next__(self) -> Chunk:
        if self.finish_reason == "length":
            raise KeyboardInterrupt
        super().__next__()
        self.finish_reason = "length"
        return Chunk("Well", 1)


def test_ctrl_c_keeps_what_the_answer_had_so_far(
    toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_engine(toy) as llm:

        def interrupted(*_: object, **__: object) -> Generation:
            return Interrupted(llm.engine.thread, Request((1, 2)))

        monkeypatch.setattr(llm, "stream_chat", interrupted)
        options = GenerationOptions(
            9, None, None, None, 0.0, None, 0.0, 0.0, None, (), None, None, None, False
        )
        conversation = Conversation(llm, options, options.sampling_params(), None)
        monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
        conversation.run()
    assert capsys.readouterr().out == "Well\n"
    assert conversation.messages == [Message("user", "hi"), Message("assistant", "Well")]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_conversation_at_a_terminal(tmp_path: Path) -> None:
    import pty

    folder = engine(tmp_path, 1 + len("User: hi\n\nAssistant:"), " Yo")
    controller, terminal = pty.openpty()
    code = f"from trtcoder.cli import main; main(['chat', {folder!r}])"
    chat = subprocess.Popen(
        [sys.executable, "-c", code], stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    seen = ""

    def read_until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([controller], [], [], 30)[0], f"no {text!r} after {seen!r}"
            seen += os.read(controller, 1000).decode()
        seen = seen[seen.index(text) + len(text) :]

    try:
        read_until("Ctrl-D leaves.")
        read_until("> ")
        os.write(controller, b"hi\n")
        read_until("Yo\r\n")
        read_until("> ")
        # Ctrl-C at the prompt: a new prompt. One that comes before readline waits is not seen.
        for _ in range(30):
            chat.send_signal(signal.SIGINT)
            if select.select([controller], [], [], 1)[0]:
                break
        read_until("> ")
        os.write(controller, b"\x04")  # Ctrl-D
        assert chat.wait(timeout=30) == 0
    finally:
        chat.kill()
        chat.wait()
        os.close(controller)
