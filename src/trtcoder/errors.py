"""The errors that trtcoder raises on purpose.

Every message says what is wrong, where (file, tensor, key) and the remedy. The command line turns
each into one line and exit status 1; anything else that escapes is a defect in trtcoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TrtcoderError(Exception):
    """Base of all errors that a user can cause or repair."""


class ConfigError(TrtcoderError):
    """A model configuration that is malformed, or asks for what trtcoder cannot do."""


class CheckpointError(TrtcoderError):
    """A checkpoint whose files or tensors are missing, unsafe, truncated or misshapen."""


class BuildError(TrtcoderError):
    """An engine that cannot be built as asked."""


class ParityError(TrtcoderError):
    """An engine that misses its parity gate against the reference.

    ``table`` shows by how much, ``outcome`` has what a build that passes would have printed as
    JSON.
    """

    def __init__(
        self, message: str, table: str = "", outcome: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.table = table
        self.outcome = outcome


class EngineError(TrtcoderError):
    """An engine folder that does not match its manifest, or that this machine cannot run."""


class RequestError(TrtcoderError):
    """A request that this engine cannot serve: too long, bad parameters, missing capability."""


class ContextError(RequestError):
    """A prompt that is longer than the context, both in tokens."""

    def __init__(self, num_tokens: int, context: int) -> None:
        super().__init__(
            f"the prompt has {num_tokens} tokens, and the context holds {context}; shorten it"
        )
        self.num_tokens = num_tokens
        self.context = context


class BusyError(TrtcoderError):
    """A request that has no place in the queue now, and may have one later."""


class DependencyError(TrtcoderError):
    """A package that the command needs is not installed; the message names the extra."""


class EvaluationError(TrtcoderError):
    """A suite that cannot be asked or judged as it is: its data, its journal, or this host."""
