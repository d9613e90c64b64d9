"""An engine folder, asked in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import RequestError
from trtcoder.evaluation.models.model import Answer
from trtcoder.evaluation.problem import Form, Problem

if TYPE_CHECKING:
    from trtcoder.runtime.engine.settings import EngineSettings
    from trtcoder.runtime.llm import LLM
    from trtcoder.runtime.requests.generation import Generation

# Problems that wait in the engine for each answer that can run.
_AHEAD = 4


class EngineModel:
    """Asks an engine through its batching; it is loaded when it is entered."""

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        """Read the folder's manifest.

        Raises:
            EngineError: it is no engine folder.
        """
        bundle = Bundle.load(folder, verify_hashes=False)
        self.folder = folder
        self.name = bundle.manifest.model.name
        self.digest: str | None = bundle.manifest.computing_digest()
        self.context: int | None = settings.context or bundle.manifest.model.max_positions
        self._can = bundle.manifest.capabilities
        self._settings = settings
        self._llm: LLM | None = None

    def __enter__(self) -> Self:
        """Load the engine.

        Raises:
            EngineError, DependencyError, RequestError: see `trtcoder.runtime.llm.LLM`.
        """
        from trtcoder.runtime.llm import LLM

        self._llm = LLM(self.folder, settings=self._settings)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loaded.close()

    def can(self, form: Form) -> bool:
        """Return whether the model was trained for this form."""
        return {
            "complete": self._can.completion, "chat": self._can.chat, "fill": self._can.fim
        }[form]  # fmt: skip

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self._loaded.tokenizer.encode(text))

    def answers(self, problems: Sequence[Problem]) -> Iterator[Answer]:
        """Yield an answer to each problem; a batch of them is computed together."""
        window = min(self._settings.max_queue, _AHEAD * self._settings.max_batch)
        running: deque[Generation | Answer] = deque()
        try:
            for problem in problems:
                running.append(self._begin(problem))
                if len(running) >= window:
                    yield _finish(running.popleft())
            while running:
                yield _finish(running.popleft())
        finally:
            for each in running:
                if not isinstance(each, Answer):
                    each.close()

    @property
    def _loaded(self) -> LLM:
        if self._llm is None:
            raise ValueError("the engine is not loaded: use it in a with statement")
        return self._llm

    def _begin(self, problem: Problem) -> Generation | Answer:
        from trtcoder.runtime.sampling.params import SamplingParams

        llm = self._loaded
        params = SamplingParams(
            temperature=0.0,
            repetition_penalty=1.0,
            max_tokens=problem.max_tokens,
            stop=problem.stop,
        )
        try:
            match problem.form:
                case "fill":
                    return llm.stream_fill(problem.prompt, problem.suffix, params)
                case "chat":
                    return llm.stream_chat(messages(problem), params)
                case "complete":
                    return llm.stream(problem.prompt, params)
        except RequestError as error:
            return Answer("", refused=str(error))


def messages(problem: Problem) -> list[dict[str, str]]:
    """Return a problem as a conversation."""
    system = [] if problem.system is None else [{"role": "system", "content": problem.system}]
    return [*system, {"role": "user", "content": problem.prompt}]


def _finish(running: Generation | Answer) -> Answer:
    if isinstance(running, Answer):
        return running
    text = running.text()
    return Answer(text, running.finish_reason or "", running.usage.completion_tokens)
