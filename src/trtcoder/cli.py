"""The command line: each command lives in its own module and is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from trtcoder import __version__
from trtcoder.process import past_click, run

# Command -> its line in `trtcoder --help`, which must not import the module.
COMMANDS = {
    "build": "Convert a checkpoint into a verified engine.",
    "verify": "Compare an engine with its checkpoint's reference logits.",
    "plan": "Plan a model in stages over several machines.",
    "inspect": "Show what an engine folder holds.",
    "doctor": "Show what engines run with on this machine.",
    "report": "Write an engine's certificate as an HTML page.",
    "diff": "Compare the certificates of two engines.",
    "eval": "Ask published suites of problems and judge the answers.",
    "serve": "Serve engines over HTTP.",
    "triton": "Write a model repository for Triton.",
    "complete": "Complete a prompt.",
    "fill": "Fill in the middle of a file.",
    "chat": "Chat with the model.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use, and whose library errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of ``cmd_name``."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"trtcoder.commands.{cmd_name}")
        command = getattr(module, cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.{cmd_name} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; unless ``standalone_mode`` is off, end the process with its status.

        A refusal of the system or an error of the library becomes one line on standard error.
        """

        def command() -> object:
            return super(LazyGroup, self).main(args, prog_name, complete_var, False, **extra)

        if not standalone_mode:
            return command()
        sys.exit(run(command))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments, or print the help."""
        with past_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with past_click():
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trtcoder")
def main() -> None:
    """Turn DeepSeek-Coder-V2 checkpoints into verified engines, and run them."""
