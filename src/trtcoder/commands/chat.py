"""`trtcoder chat`: one answer, or a conversation."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from trtcoder.commands.generation_options import (
    GenerationOptions,
    generation_options,
    note_spelled_tokens,
)
from trtcoder.commands.terminal import decoded, read_text, say, show, stream_answer
from trtcoder.errors import RequestError

if TYPE_CHECKING:
    from trtcoder.prompting.prompts import Message
    from trtcoder.runtime.llm import LLM
    from trtcoder.runtime.sampling.params import SamplingParams

HELP = """\
/system TEXT  set the system message and start again; without TEXT, remove it
/reset        start again
/help         this list
/quit         leave, as Ctrl-D does; Ctrl-C ends an answer"""


@click.command()
@click.argument("engine", type=click.Path())
@click.argument("message", required=False)
@click.option("--system", help="System message.")
@generation_options(max_tokens=1024)
def chat(engine: str, message: str | None, system: str | None, **values: Any) -> None:
    """Chat with the engine in folder ENGINE.

    With MESSAGE (- reads standard input), print one answer. Without it, hold a conversation: one
    message a line, /help for commands.
    """
    options = GenerationOptions(**values)
    params = options.sampling_params()
    text = None if message is None else read_text(message, "MESSAGE")
    with options.open(engine, "chat") as llm:
        conversation = Conversation(llm, options, params, system)
        if text is not None:
            conversation.say(text)
            return
        conversation.run()
    if conversation.interrupted:
        raise KeyboardInterrupt
    if conversation.failed:
        raise SystemExit(1)


@dataclass(slots=True)
class Conversation:
    """The messages so far, and the loop that adds to them.

    Attributes:
        failed: whether a message was refused where nobody could repeat it, in a pipe.
        interrupted: whether Ctrl-C ended the loop, in a pipe.
    """

    llm: LLM
    options: GenerationOptions
    params: SamplingParams
    system: str | None
    messages: list[Message] = field(default_factory=list)
    failed: bool = False
    interrupted: bool = False

    def say(self, text: str) -> None:
        """Send a user message, print the answer and remember both.

        An answer that Ctrl-C ends stays in the conversation as far as it came.
        """
        from trtcoder.commands.prompt_progress import PromptProgress
        from trtcoder.prompting.prompts import Message

        note_spelled_tokens(self.llm, "" if self.messages else self.system or "", text)
        opening = [Message("system", self.system)] if self.system else []
        asked = [*self.messages, Message("user", text)]
        pieces: list[str] = []
        with PromptProgress() as progress:
            generation = self.llm.stream_chat([*opening, *asked], self.params, on_progress=progress)
            try:
                if self.options.as_json:
                    pieces.append(self.options.answer(generation, self.llm))
                else:
                    stream_answer(generation, pieces)
            finally:
                self.messages = [*asked, Message("assistant", "".join(pieces))]

    def run(self) -> None:
        """Read messages and commands until the input ends."""
        interactive = sys.stdin is not None and sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):  # line editing and history, where there is one
                import readline  # noqa: F401
            say("/help lists the commands, Ctrl-D leaves.")
        lines = piped_lines()
        while not self.interrupted:
            try:
                line = typed_line() if interactive else next(lines, None)
                if line is None or not self._take(line.strip()):
                    break
            except KeyboardInterrupt:
                show("")
                self.interrupted = not interactive
        if interactive:
            show("")

    def _take(self, line: str) -> bool:
        """Answer a message or obey a command; False to leave."""
        if line.startswith("/"):
            return self._obey(line)
        if line:
            self._answer(line)
        return True

    def _answer(self, line: str) -> None:
        before = self.messages
        try:
            self.say(line)
            if not self.options.as_json and not sys.stdout.isatty():
                show("")
        except RequestError as error:
            # The conversation has outgrown the context; it can be started again.
            self.messages = before
            self._refuse(f"{error}; /reset starts again")

    def _obey(self, line: str) -> bool:
        """Run a command; False to leave."""
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return False
        if command == "/reset":
            self.messages = []
            say("the conversation starts again")
        elif command == "/system":
            self.system, self.messages = rest.strip() or None, []
            done = "removed" if self.system is None else "set"
            say(f"the system message is {done}, the conversation starts again")
        elif command == "/help":
            show(HELP)
        else:
            self._refuse(f"{command} is unknown; /help lists the commands")
        return True

    def _refuse(self, message: str) -> None:
        say(f"Error: {message}")
        self.failed = self.failed or sys.stdin is None or not sys.stdin.isatty()


def typed_line() -> str | None:
    """Return what is typed at the prompt; None where the user leaves."""
    try:
        return input("> ")
    except EOFError:
        return None


def piped_lines() -> Iterator[str]:
    """Return the lines of standard input.

    Raises:
        RequestError: it is closed, or a line is not UTF-8.
    """
    if sys.stdin is None:
        raise RequestError("standard input is closed; give MESSAGE as an argument")
    # A text stream without bytes below it, as programs that call this one may have.
    source: Iterable[bytes | str] = getattr(sys.stdin, "buffer", sys.stdin)
    for number, line in enumerate(source, 1):
        yield line if isinstance(line, str) else decoded(line, f", line {number}")
