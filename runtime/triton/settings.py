"""`model.yaml`: how the model `tensorrt_llm` runs its engine."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtcoder import typed_json
from trtcoder.bundle.manifest import Manifest
from trtcoder.errors import EngineError, RequestError
from trtcoder.refusals import explain, require
from trtcoder.runtime.engine.settings import EngineSettings

FILE_NAME = "model.yaml"
ENGINE = "engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonConfig:
    """What Triton is told of the model when it loads it.

    Attributes:
        max_batch_size: 0; NVIDIA's name. The engine batches, Triton does not.
        decoupled: answers go out in parts; without it every request has one response, and
            Triton takes unary calls.
        cancellation_check_period_ms: how often running requests are looked at; milliseconds.
        stream_deltas: what a part of a stream is where the request does not say: the text since
            the last one, or all of the text so far.
    """

    max_batch_size: int = 0
    decoupled: bool = True
    cancellation_check_period_ms: int = 50
    stream_deltas: bool = False

    def __post_init__(self) -> None:
        if self.max_batch_size != 0:
            raise EngineError(
                f"triton_config.max_batch_size is {self.max_batch_size}; it must be 0: requests "
                "have one prompt each, and the engine computes max_batch of them together"
            )
        if not 1 <= self.cancellation_check_period_ms <= 60_000:
            raise EngineError(
                "triton_config.cancellation_check_period_ms is "
                f"{self.cancellation_check_period_ms}; it must be from 1 to 60000"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The file's keys; what they share with `EngineSettings` means the same.

    Attributes:
        model: the engine's folder, from the folder of this file.
        max_answer_tokens: of requests that give no limit.
        triton_config: what Triton is told.
    """

    model: str = ENGINE
    threads: int | None = None
    context: int | None = None
    cache_tokens: int | None = None
    max_batch: int = 8
    max_queue: int = 64
    gap_seconds: float = 0.5
    prefix_cache: bool = True
    deterministic: bool = False
    speculate: bool | None = None
    max_answer_tokens: int = 4096
    triton_config: TritonConfig = field(default_factory=TritonConfig)

    @classmethod
    def read(cls, path: Path) -> ModelSettings:
        """Read a file.

        Raises:
            DependencyError: PyYAML is not installed.
            EngineError: it cannot be read, or a key is unknown or has a value that it cannot have.
        """
        require("yaml", extra="triton")
        import yaml

        try:
            found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            return typed_json.read(cls, {} if found is None else found)
        except (OSError, UnicodeError, RecursionError) as error:
            raise EngineError(explain(error, path)) from error
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise EngineError(f"{path}: not YAML ({said}); write it again") from error
        except typed_json.MismatchError as error:
            raise EngineError(f"{path}: {error}; docs/triton.md lists the keys") from error

    def engine_settings(self) -> EngineSettings:
        """Return the engine's part.

        Raises:
            RequestError: a value out of range.
        """
        names = {each.name for each in dataclasses.fields(EngineSettings)}
        shared = [each.name for each in dataclasses.fields(self) if each.name in names]
        return EngineSettings(**{name: getattr(self, name) for name in shared})

    def check(self, manifest: Manifest) -> None:
        """Look whether an engine can run so.

        Raises:
            RequestError: a value out of range, or a longer context than the model's.
        """
        self.engine_settings()
        longest = manifest.model.max_positions
        if self.context is not None and self.context > longest:
            raise RequestError(
                f"context is {self.context}; the model's context has {longest:,} tokens: ask for "
                "at most so many, or leave it out"
            )

    def text(self) -> str:
        """Return the file, with a word to each part."""
        engine = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name not in ("model", "triton_config")
        }
        return (
            "# The engine's folder, from the folder of this file.\n"
            f"model: {_scalar(self.model)}\n\n"
            "# How it runs; null is what this machine and the model allow.\n"
            f"{_lines(engine)}\n"
            "# What Triton is told. Without `decoupled` every request has one response, and unary\n"
            "# calls are taken.\n"
            "triton_config:\n"
            f"{_lines(dataclasses.asdict(self.triton_config), '  ')}"
        )


def _lines(values: dict[str, Any], indent: str = "") -> str:
    return "".join(f"{indent}{key}: {_scalar(value)}\n" for key, value in values.items())


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # a scalar of JSON is one of YAML
