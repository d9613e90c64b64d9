"""What an engine folder says about itself: `manifest.json` as frozen dataclasses.

Reading is strict: a missing key, an unknown key or a value of another type is an error that names
its place, such as `graph.caches[3].width`. Writing is deterministic (sorted keys, no timestamps),
so that building twice gives identical bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from trtcoder.errors import EngineError
from trtcoder.typed_json import MismatchError, read

FORMAT = 1
FILE_NAME = "manifest.json"
# uint8 is the bits of float8.
CACHE_DTYPES = ("float32", "int8", "uint8")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model's name and its configuration, with Hugging Face's keys."""

    name: str
    config: dict[str, object]


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The checkpoint that the engine was built from: its sha256 digest and tensor type."""

    digest: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the model was trained for."""

    completion: bool
    fim: bool
    chat: bool


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The checkpoint's chat template as text around each message.

    ``system``, ``user`` and ``assistant`` are (before, after) pairs. Special tokens are spelled
    out; they become ids here, and never in the content of a message.
    """

    bos: str
    system: tuple[str, ...]
    user: tuple[str, ...]
    assistant: tuple[str, ...]
    generation_prompt: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids of the special tokens; None where the tokenizer has no such token."""

    bos: int | None
    eos: tuple[int, ...]
    fim_begin: int | None
    fim_hole: int | None
    fim_end: int | None
    add_bos: bool


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """One cache input: [rows, width] of ``dtype``, updated in place through ``NAME.out``."""

    name: str
    dtype: str
    width: int


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """The graph's file and the sizes that a caller must know.

    ``cache_block`` is the number of cache rows (tokens) in a block, ``max_positions`` the length
    of the context in tokens.
    """

    file: str
    cache_block: int
    max_positions: int
    vocab_size: int
    caches: tuple[CacheInfo, ...]


@dataclass(frozen=True, slots=True)
class Requires:
    """The ONNX Runtime release (major.minor) and execution provider that the graph needs."""

    onnxruntime: str
    provider: str


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Size and hash of one file of the folder."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of `manifest.json`. ``recipe`` and ``parity`` are for people and for `inspect`."""

    format: int
    trtcoder: str
    target: str
    model: ModelInfo
    source: SourceInfo
    recipe: dict[str, object]
    capabilities: Capabilities
    chat_format: ChatFormat | None
    tokens: Tokens
    graph: GraphInfo
    requires: Requires
    files: dict[str, FileInfo]
    parity: dict[str, object] | None

    def to_json(self) -> str:
        """Return the file's text: the same manifest always gives the same bytes."""
        return (
            json.dumps(dataclasses.asdict(self), sort_keys=True, indent=2, ensure_ascii=False)
            + "\n"
        )

    @classmethod
    def from_json(cls, text: str, source: str = FILE_NAME) -> Manifest:
        """Read a manifest; ``source`` names it in errors.

        Raises:
            EngineError: not JSON, another format revision, or contents that contradict
                themselves.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise EngineError(f"{source}: not JSON ({error}); build the engine again") from error
        if not isinstance(data, dict):
            raise EngineError(f"{source}: expected an object; build the engine again")
        if data.get("format") != FORMAT:
            raise EngineError(
                f"{source}: format revision {data.get('format')!r}, this trtcoder reads {FORMAT}; "
                "build the engine again with this version, or use the version that built it"
            )
        try:
            manifest = read(cls, data)
        except MismatchError as error:
            raise EngineError(f"{source}: {error}; build the engine again") from error
        manifest.check(source)
        return manifest

    def check(self, source: str = FILE_NAME) -> None:
        """Raise EngineError where the manifest contradicts itself."""
        problems = list(self._problems())
        if problems:
            raise EngineError(f"{source}: {'; '.join(problems)}; build the engine again")

    def _problems(self) -> Iterator[str]:
        graph, tokens = self.graph, self.tokens
        for name, value in (
            ("cache_block", graph.cache_block),
            ("max_positions", graph.max_positions),
            ("vocab_size", graph.vocab_size),
            *((f"caches: {cache.name}: width", cache.width) for cache in graph.caches),
        ):
            if value < 1:
                yield f"graph.{name} is {value}, expected at least 1"
        if not graph.caches:
            yield "graph.caches is empty"
        if len({cache.name for cache in graph.caches}) != len(graph.caches):
            yield "graph.caches names a cache twice"
        for cache in graph.caches:
            if cache.dtype not in CACHE_DTYPES:
                yield f"graph.caches: {cache.name} has unknown type {cache.dtype!r}"
        fim = {
            "fim_begin": tokens.fim_begin,
            "fim_hole": tokens.fim_hole,
            "fim_end": tokens.fim_end,
        }
        special = {"bos": tokens.bos, **fim, **{f"eos[{i}]": t for i, t in enumerate(tokens.eos)}}
        for name, token in special.items():
            if token is not None and not 0 <= token < graph.vocab_size:
                yield f"tokens.{name} is {token}, outside the vocabulary of {graph.vocab_size}"
        if tokens.add_bos and tokens.bos is None:
            yield "tokens.add_bos is set but tokens.bos is null"
        if self.capabilities.fim and None in fim.values():
            yield "capabilities.fim is set but a fim token is null"
        if self.capabilities.chat and self.chat_format is None:
            yield "capabilities.chat is set but chat_format is null"
        if self.chat_format is not None:
            for role in ("system", "user", "assistant"):
                if len(getattr(self.chat_format, role)) != 2:
                    yield f"chat_format.{role} is not a pair (before, after)"
        for name in self.files:
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts or name == FILE_NAME:
                yield f"files: {name!r} is not a name inside the folder"
