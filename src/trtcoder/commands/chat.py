"""`trtcoder chat`: one answer, or a conversation."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from trtcoder.commands.generation_options import GenerationOptions, generation_options
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
    from trtcoder.commands.terminal import read_text

    options = GenerationOptions(**values)
    params = options.sampling_params()
    text = None if message is None else read_text(message, "MESSAGE")
    with options.open(engine, "chat") as llm:
        conversation = Conversation(llm, options, params, system)
        if text is not None:
            conversation.say(text)
        else:
            conversation.run()


@dataclass(slots=True)
class Conversation:
    """The messages so far, and the loop that adds to them."""

    llm: LLM
    options: GenerationOptions
    params: SamplingParams
    system: str | None
    messages: list[Message] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Send a user message, print the answer and remember both.

        An answer that Ctrl-C ends stays in the conversation as far as it came.
        """
        from trtcoder.commands.terminal import print_answer, stream_answer
        from trtcoder.prompting.prompts import Message

        opening = [Message("system", self.system)] if self.system else []
        asked = [*self.messages, Message("user", text)]
        generation = self.llm.stream_chat([*opening, *asked], self.params)
        pieces: list[str] = []
        try:
            if self.options.as_json:
                name = self.llm.manifest.model.name
                pieces.append(print_answer(generation, as_json=True, model=name))
            else:
                stream_answer(generation, pieces)
        finally:
            self.messages = [*asked, Message("assistant", "".join(pieces))]

    def run(self) -> None:
        """Read messages and commands until the input ends."""
        interactive = sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):  # line editing and history, where there is one
                import readline  # noqa: F401
            click.echo("/help lists the commands, Ctrl-D leaves.", err=True)
        while True:
            try:
                line = input("> " if interactive else "").strip()
            except EOFError:
                break
            except KeyboardInterrupt:
                click.echo()
                continue
            if line.startswith("/"):
                if not self._obey(line):
                    break
            elif line:
                self._answer(line)
        if interactive:
            click.echo()

    def _answer(self, line: str) -> None:
        before = self.messages
        try:
            self.say(line)
            if not self.options.as_json and not sys.stdout.isatty():
                click.echo()
        except KeyboardInterrupt:
            click.echo()
        except RequestError as error:
            # The conversation has outgrown the context; it can be started again.
            self.messages = before
            click.echo(f"Error: {error}; /reset starts again", err=True)

    def _obey(self, line: str) -> bool:
        """Run a command; False to leave."""
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return False
        if command == "/reset":
            self.messages = []
        elif command == "/system":
            self.system, self.messages = rest.strip() or None, []
        elif command == "/help":
            click.echo(HELP)
        else:
            click.echo(f"Error: {command} is unknown; /help lists the commands", err=True)
        return True
