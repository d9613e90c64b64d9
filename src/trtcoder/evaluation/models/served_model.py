"""A model behind OpenAI's endpoints: our server, or another one."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.models.engine_model import messages
from trtcoder.evaluation.models.model import Answer
from trtcoder.evaluation.problem import Form, Problem, before_stop
from trtcoder.refusals import reason

# OpenAI's bound; what is left out is cut here.
_STOPS = 4
_TRIES = 5
# Of servers that do not count tokens: characters of code that one has.
_CHARACTERS = 3
KEY_VARIABLE = "TRTCODER_API_KEY"


class ServedModel:
    """Asks a server, several problems at a time."""

    def __init__(self, address: str, name: str | None, *, at_once: int, timeout: float) -> None:
        """Take the server's address.

        Args:
            address: such as http://127.0.0.1:8000, with or without ``/v1``.
            name: of the model; the first that the server lists if None.
            at_once: problems that are asked at a time.
            timeout: seconds that one answer may take.
        """
        self.address = address.rstrip("/").removesuffix("/v1")
        self.name = name or ""
        self.digest: str | None = None
        self.context: int | None = None
        self._at_once = at_once
        self._timeout = timeout
        self._counts = True

    def __enter__(self) -> Self:
        """Ask the server which models it has.

        Raises:
            EvaluationError: it does not answer, or has no such model.
        """
        listed = self._ask("/v1/models", None).get("data")
        names = [str(each.get("id")) for each in listed or [] if isinstance(each, dict)]
        if not names:
            raise EvaluationError(f"{self.address}: lists no model; name one with --model")
        if self.name and self.name not in names:
            raise EvaluationError(
                f"{self.address}: has no model {self.name}; --model takes {', '.join(names)}"
            )
        self.name = self.name or names[0]
        self._pool = ThreadPoolExecutor(self._at_once)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=error is None, cancel_futures=True)

    def can(self, form: Form) -> bool:
        """Return True: a server tells by its answers."""
        return True

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has; an estimate where the server does not count."""
        if self._counts:
            try:
                tokens = self._ask("/tokenize", {"content": text}).get("tokens")
            except _RefusedError:
                tokens = None
            if isinstance(tokens, list):
                return len(tokens)
            self._counts = False
        return -(-len(text) // _CHARACTERS)

    def answers(self, problems: Sequence[Problem]) -> Iterator[Answer]:
        """Yield an answer to each problem.

        Raises:
            EvaluationError: the server does not answer any more.
        """
        running: deque[Future[Answer]] = deque()
        for problem in problems:
            running.append(self._pool.submit(self._answer, problem))
            if len(running) > 2 * self._at_once:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _answer(self, problem: Problem) -> Answer:
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": problem.max_tokens,
            "temperature": 0,
            "stop": list(problem.stop[:_STOPS]) or None,
        }
        if problem.form == "chat":
            path, body["messages"] = "/v1/chat/completions", messages(problem)
        else:
            path, body["prompt"] = "/v1/completions", problem.prompt
        if problem.form == "fill":
            body["suffix"] = problem.suffix
        try:
            found = self._ask(path, {key: item for key, item in body.items() if item is not None})
        except _RefusedError as error:
            return Answer("", refused=str(error))
        try:
            choice = found["choices"][0]
            text = choice["message"]["content"] if problem.form == "chat" else choice["text"]
            tokens = (found.get("usage") or {}).get("completion_tokens", 0)
            text = before_stop(text or "", problem.stop)
            return Answer(text, str(choice.get("finish_reason")), int(tokens))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"{self.address}{path}: its answer is not OpenAI's ({type(error).__name__}: "
                f"{error}); give the address of a server that speaks it"
            ) from error

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Send a request, again where the server is busy, and return its answer.

        Raises:
            _RefusedError: it refuses this request.
            EvaluationError: it cannot be reached, or fails.
        """
        url = f"{self.address}{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["authorization"] = f"Bearer {key}"
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(2 ** (attempt - 1))
            try:
                request = urllib.request.Request(url, data, headers)
                with urllib.request.urlopen(request, timeout=self._timeout) as response:
                    found = json.loads(response.read())
                return found if isinstance(found, dict) else {}
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}: {_message(error)}"
                if error.code in (401, 403):
                    raise EvaluationError(
                        f"{url}: {problem}; give its key in the variable {KEY_VARIABLE}"
                    ) from error
                if error.code not in (408, 429, 500, 502, 503, 504):
                    raise _RefusedError(problem) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = reason(getattr(error, "reason", None) or error)
        raise EvaluationError(
            f"{url}: does not answer ({problem}); what is answered so far is kept, go on with "
            "--resume"
        )


class _RefusedError(Exception):
    """A request that the server refuses, and would refuse again."""


def _message(error: urllib.error.HTTPError) -> str:
    try:
        found = json.loads(error.read())
        return str(found["error"]["message"])[:200]
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)
