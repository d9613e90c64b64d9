"""The options that complete, fill and chat share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from trtcoder.commands import engine_options
from trtcoder.commands.needs import require_run
from trtcoder.commands.numbers import SEED, TOKENS
from trtcoder.commands.terminal import print_answer, say
from trtcoder.errors import RequestError

if TYPE_CHECKING:
    from trtcoder.prompting.line_ends import LineEnds
    from trtcoder.prompting.prompts import Capability
    from trtcoder.runtime.llm import LLM
    from trtcoder.runtime.requests.generation import Generation
    from trtcoder.runtime.sampling.params import SamplingParams

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """The shared options as the user gave them."""

    max_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float
    presence_penalty: float
    seed: int | None
    stop: tuple[str, ...]
    threads: int | None
    context: int | None
    speculate: bool | None
    as_json: bool

    def sampling_params(self) -> SamplingParams:
        """Return the sampler's part.

        Raises:
            RequestError: a value out of range.
        """
        from trtcoder.runtime.sampling.params import SamplingParams

        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=self.stop,
        )

    def with_line_ends(self, ends: LineEnds) -> Self:
        """Return the options with stop strings as the model writes them."""
        return replace(self, stop=tuple(ends.for_model(stop) for stop in self.stop))

    def open(self, engine: str, capability: Capability) -> LLM:
        """Load the engine folder, after a look at whether it can serve what is asked.

        Raises:
            RequestError: the model lacks ``capability``, or its context is shorter than asked for.
        """
        from trtcoder.bundle.folder import Bundle
        from trtcoder.prompting.prompts import require
        from trtcoder.room import memory_note

        require_run()
        manifest = Bundle.load(engine, verify_hashes=False).manifest
        require(manifest, capability)
        longest = manifest.model.max_positions
        if self.context is not None and self.context > longest:
            raise RequestError(
                f"--context {self.context}: the model's context has {longest:,} tokens; ask for "
                "at most so many, or leave it out"
            )
        size = sum(info.bytes for info in manifest.files.values())
        quality = (manifest.parity or {}).get("quality")
        for note in (
            memory_note("the engine", size),
            f"note: this engine is {quality}, see `trtcoder inspect {engine}`"
            if quality in ("poor", "broken")
            else None,
        ):
            if note is not None:
                say(note)
        from trtcoder.runtime.llm import open_engine

        return open_engine(
            engine,
            threads=self.threads,
            context=self.context,
            speculate=self.speculate,
            capability=capability,
        )

    def answer(self, generation: Generation, llm: LLM, ends: LineEnds | None = None) -> str:
        """Print an answer in the form that was asked for, and return its text."""
        name = llm.manifest.model.name
        return print_answer(generation, as_json=self.as_json, model=name, ends=ends)


def note_spelled_tokens(llm: LLM, *texts: str) -> None:
    """Say of control tokens that the user's texts spell that they are text."""
    from trtcoder.prompting.spelled_tokens import spelled_tokens

    found = spelled_tokens("\n".join(texts), llm.tokenizer.control)
    if found:
        say(
            f"note: {', '.join(found)} in the prompt {'is' if len(found) == 1 else 'are'} text; "
            "control tokens are placed by fill and chat"
        )


def generation_options(*, max_tokens: int) -> Callable[[Command], Command]:
    """Add the shared options to a command, which takes them as ``**values``.

    ``max_tokens`` is the command's default; pass the values to `GenerationOptions`.
    """
    options = [
        click.option(
            "--max-tokens",
            type=TOKENS,
            default=max_tokens,
            show_default=True,
            help="Most tokens to generate.",
        ),
        click.option(
            "--temperature",
            type=float,
            help="0 takes the most likely token; higher is more varied.  "
            "[default: the model's, or 0]",
        ),
        click.option(
            "--top-k",
            type=int,
            help="Choose among the k most likely tokens; 0 is all.  [default: the model's, or 0]",
        ),
        click.option(
            "--top-p",
            type=float,
            help="Choose among the most likely tokens that together have this probability.  "
            "[default: the model's, or 1]",
        ),
        click.option(
            "--min-p",
            type=float,
            help="Drop tokens less likely than this fraction of the most likely one.  "
            "[default: the model's, or 0]",
        ),
        click.option(
            "--repetition-penalty",
            type=float,
            help="Above 1, repeat the prompt and the answer less.  [default: the model's, or 1]",
        ),
        click.option(
            "--frequency-penalty",
            type=float,
            default=0.0,
            show_default=True,
            help="From -2 to 2; above 0, repeat the answer less, by how often.",
        ),
        click.option(
            "--presence-penalty",
            type=float,
            default=0.0,
            show_default=True,
            help="From -2 to 2; above 0, repeat the answer less, once per token.",
        ),
        click.option("--seed", type=SEED, help="Same seed, same text.  [default: drawn]"),
        click.option(
            "--stop", multiple=True, help="End before this text; $'\\n' is a newline. Repeatable."
        ),
        engine_options.THREADS,
        click.option(
            "--context",
            type=TOKENS,
            help="Most tokens of prompt and answer together.  [default: the model's context]",
        ),
        engine_options.SPECULATE,
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print one JSON object at the end instead of streaming text.",
        ),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
