"""What an engine folder says about itself: `manifest.json` as frozen dataclasses.

Reading is strict: a missing key, an unknown key or a value of another type is an error that names
its place, such as `onnx.graph.caches[3].width`. Writing is deterministic (sorted keys, no
timestamps), so that building twice gives identical bytes. What only engines of one target say is in
a key named as the target (`trtcoder.bundle.onnx`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from trtcoder.bundle.compiled import TARGET as COMPILED
from trtcoder.bundle.compiled import CompiledParts
from trtcoder.bundle.onnx import TARGET as ONNX
from trtcoder.bundle.onnx import GraphInfo, OnnxParts, Requires
from trtcoder.bundle.quantized import TARGETS as QUANTIZED
from trtcoder.bundle.quantized import QuantizedParts
from trtcoder.errors import EngineError
from trtcoder.plain_json import dumps
from trtcoder.refusals import parse_json
from trtcoder.typed_json import MismatchError, read

FORMAT = 2
FILE_NAME = "manifest.json"
_SAID_OF_IT = ("parity.json", "eval.json")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model's name, its configuration with Hugging Face's keys, and what callers must know.

    ``max_positions`` is the length of the context in tokens.
    """

    name: str
    config: dict[str, object]
    vocab_size: int
    max_positions: int


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
class TemplateInfo:
    """A chat template that is more than text around messages, and is rendered for each prompt.

    ``file`` is the Jinja template in the engine's folder; ``variables`` are the texts of special
    tokens that it may use, by name, such as ``bos_token``.
    """

    file: str
    variables: dict[str, str]


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What the checkpoint's generation_config.json says about sampling; None where it does not.

    ``do_sample`` false means greedy, whatever the others say.
    """

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids of the special tokens; None where the tokenizer has no such token.

    ``eos`` are those that end an answer: of config.json, then of generation_config.json.
    """

    bos: int | None
    eos: tuple[int, ...]
    fim_begin: int | None
    fim_hole: int | None
    fim_end: int | None
    add_bos: bool

    def ids(self) -> list[int]:
        """Return all of them that there are."""
        found = (self.bos, *self.eos, self.fim_begin, self.fim_hole, self.fim_end)
        return [token for token in found if token is not None]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Size and hash of one file of the folder."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of `manifest.json`. ``recipe`` and ``parity`` are for people and for `inspect`.

    An engine that chats has a ``chat_format`` or a ``chat_template``. One that does not, though its
    checkpoint has a template, says in ``chat_refusal`` why.
    """

    format: int
    trtcoder: str
    target: str
    model: ModelInfo
    source: SourceInfo
    recipe: dict[str, object]
    capabilities: Capabilities
    chat_format: ChatFormat | None
    tokens: Tokens
    files: dict[str, FileInfo]
    parity: dict[str, object] | None
    onnx: OnnxParts | None = None
    chat_template: TemplateInfo | None = None
    chat_refusal: str | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    quantized: QuantizedParts | None = None
    compiled: CompiledParts | None = None

    @property
    def onnx_parts(self) -> OnnxParts:
        """The ONNX graphs, and what runs them.

        Raises:
            EngineError: the engine is for a target that has none.
        """
        if self.onnx is None:
            served = ""
            if self.quantized is not None:
                served = f"; {', '.join(self.quantized.readers)} serve it, as its README.md says"
            if self.compiled is not None:
                served = f"; {self.compiled.needs()}"
            raise EngineError(
                f"{self.model.name}: an engine for {self.target} has no ONNX graph{served}; build "
                "one with `--target onnx`"
            )
        return self.onnx

    @property
    def graph(self) -> GraphInfo:
        """The ONNX graph.

        Raises:
            EngineError: the engine is for a target that has none.
        """
        return self.onnx_parts.graph

    @property
    def requires(self) -> Requires:
        """What runs the ONNX graph.

        Raises:
            EngineError: the engine is for a target that has none.
        """
        return self.onnx_parts.requires

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self.model.name

    def computing_digest(self) -> str:
        """Return a sha256 of what decides an answer, in hex.

        That is all of the engine but what was said about it: its certificate, its scores, and the
        version that built it. A field with its default does not count, so that a later version,
        which may have more of them, finds the same digest.
        """
        files = {name: info for name, info in self.files.items() if name not in _SAID_OF_IT}
        computing = dataclasses.replace(self, files=files, parity=None, trtcoder="")
        return hashlib.sha256(dumps(_stated(computing), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the file's text: the same manifest always gives the same bytes."""
        data = dataclasses.asdict(self)
        for key in ("quantized", "compiled"):
            if data[key] is None:
                # As before there were such engines, so that what read manifests then reads these.
                del data[key]
        if self.onnx is not None and self.onnx.twin is None:
            del data["onnx"]["twin"]
        return dumps(data, sort_keys=True, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = FILE_NAME) -> Manifest:
        """Read a manifest; ``source`` names it in errors.

        Raises:
            EngineError: not JSON, another format revision, or contents that contradict
                themselves.
        """
        data = parse_json(text, source, EngineError, "build the engine again")
        if not isinstance(data, dict):
            raise EngineError(f"{source}: expected an object; build the engine again")
        if data.get("format") == 1:
            data = _from_format_1(data)
        if data.get("format") != FORMAT:
            raise EngineError(
                f"{source}: format revision {data.get('format')!r}, this trtcoder reads 1 and "
                f"{FORMAT}; build the engine again with this version, or use the version that "
                "built it"
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
        tokens, vocabulary = self.tokens, self.model.vocab_size
        for name, value in (
            ("vocab_size", vocabulary),
            ("max_positions", self.model.max_positions),
        ):
            if value < 1:
                yield f"model.{name} is {value}, expected at least 1"
        if (self.target == ONNX) != (self.onnx is not None):
            yield f"target is {self.target!r}, and onnx is {'set' if self.onnx else 'null'}"
        if self.onnx is not None:
            yield from self.onnx.problems()
        if (self.target in QUANTIZED) != (self.quantized is not None):
            state = "set" if self.quantized else "null"
            yield f"target is {self.target!r}, and quantized is {state}"
        if self.quantized is not None:
            yield from self.quantized.problems()
        if (self.target == COMPILED) != (self.compiled is not None):
            state = "set" if self.compiled else "null"
            yield f"target is {self.target!r}, and compiled is {state}"
        if self.compiled is not None:
            yield from self.compiled.problems()
        fim = {
            "fim_begin": tokens.fim_begin,
            "fim_hole": tokens.fim_hole,
            "fim_end": tokens.fim_end,
        }
        special = {"bos": tokens.bos, **fim, **{f"eos[{i}]": t for i, t in enumerate(tokens.eos)}}
        for name, token in special.items():
            if token is not None and not 0 <= token < vocabulary:
                yield f"tokens.{name} is {token}, outside the vocabulary of {vocabulary}"
        if tokens.add_bos and tokens.bos is None:
            yield "tokens.add_bos is set but tokens.bos is null"
        if self.capabilities.fim and None in fim.values():
            yield "capabilities.fim is set but a fim token is null"
        if self.capabilities.chat and self.chat_format is None and self.chat_template is None:
            yield "capabilities.chat is set but chat_format is null, and so is chat_template"
        if self.chat_template is not None and self.chat_template.file not in self.files:
            yield f"chat_template.file {self.chat_template.file!r} is not in files"
        if self.chat_format is not None:
            for role in ("system", "user", "assistant"):
                if len(getattr(self.chat_format, role)) != 2:
                    yield f"chat_format.{role} is not a pair (before, after)"
        for name in self.files:
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts or name == FILE_NAME:
                yield f"files: {name!r} is not a name inside the folder"


def _stated(value: Any) -> Any:
    """Return a dataclass as JSON has it, without the fields that have their defaults."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _stated(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        }
    if isinstance(value, Mapping):
        return {key: _stated(item) for key, item in value.items()}
    return [_stated(item) for item in value] if isinstance(value, list | tuple) else value


def _from_format_1(data: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 1, which knew one target, in the present one.

    What is malformed stays so, for the reader to name.
    """
    moved = {key: value for key, value in data.items() if key not in ("graph", "requires")}
    graph, model = data.get("graph"), data.get("model")
    if isinstance(graph, dict) and isinstance(model, dict):
        sizes = {key: graph[key] for key in ("vocab_size", "max_positions") if key in graph}
        graph = {key: value for key, value in graph.items() if key not in sizes}
        moved["model"] = {**model, **sizes}
    parts = {"graph": graph, "requires": data.get("requires")}
    return {**moved, "format": FORMAT, "onnx": parts}
