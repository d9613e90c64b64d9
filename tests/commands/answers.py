"""Commands run on engines that answer what a test tells them to."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from tests.toy_engine import EOS, byte_tokenizer, script, write_toy_engine
from trtcoder.cli import main
from trtcoder.prompting.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer(byte_tokenizer())


def engine(folder: Path, after: int, answer: str) -> str:
    """An engine that answers a prompt of ``after`` tokens, BOS included, with ``answer``."""
    scripted = script(after, [*TOKENIZER.encode(answer), EOS])
    return str(write_toy_engine(folder / "engine", scripted=scripted))


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)
