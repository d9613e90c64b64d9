"""Text as users of the model have it, and its token ids: plain code, FIM and chat.

A file of JSON lines, each with a ``kind``:

- ``{"kind": "plain", "text": …}``
- ``{"kind": "fim", "prefix": …, "suffix": …, "middle": …}``
- ``{"kind": "chat", "messages": [{"role": …, "content": …}, …]}``, the last one the assistant's
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trtcoder.bundle.manifest import Capabilities, ChatFormat, Tokens
from trtcoder.errors import RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("plain", "fim", "chat")
MAX_TOKENS = 384

Record = Mapping[str, Any]


class Prompting(Protocol):
    """How a model's prompts are written; a manifest says it, and so does a checkpoint."""

    @property
    def tokens(self) -> Tokens:
        """Ids of the special tokens."""

    @property
    def chat_format(self) -> ChatFormat | None:
        """Text around messages."""

    @property
    def capabilities(self) -> Capabilities:
        """What the model was trained for."""


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One sequence of token ids.

    Perplexity counts the tokens from ``scored_from`` on, which stand for ``scored_bytes`` bytes of
    text: all of a plain text, the middle of a FIM example, the answer of a chat.
    """

    kind: str
    ids: tuple[int, ...]
    scored_from: int
    scored_bytes: int


def read_built_in(name: str) -> list[Record]:
    """Return the records of a set that ships with the package: ``heldout``, ``calibration``."""
    text = files("trtcoder.calib.text").joinpath(f"data/{name}.jsonl").read_text(encoding="utf-8")
    return list(parse_records(text, f"the built-in {name} set"))


def read_records(path: Path) -> list[Record]:
    """Return the records of a file of JSON lines.

    Raises:
        RequestError: the file is missing or malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from error
    return list(parse_records(text, str(path)))


def parse_records(text: str, source: str) -> Iterator[Record]:
    """Return one record a line; ``source`` names the text in errors."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            spoken_text(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"{source}, line {number}: is not an example ({error!r}); "
                "see `trtcoder verify --help`"
            ) from error
        yield record


def spoken_text(record: Record) -> str:
    """Return all text of a record, in reading order.

    Raises:
        KeyError, TypeError: it is malformed.
    """
    kind = record["kind"]
    if kind == "plain":
        parts = [record["text"]]
    elif kind == "fim":
        parts = [record["prefix"], record["middle"], record["suffix"]]
    elif kind == "chat":
        if not record["messages"]:
            raise TypeError("messages is empty")
        known = {"system", "user", "assistant"}
        if any(message["role"] not in known for message in record["messages"]):
            raise KeyError("role")
        parts = [message["content"] for message in record["messages"]]
    else:
        raise KeyError(f"kind {kind!r}")
    return "".join(parts) if kind == "fim" else "\n".join(parts)


def encode_records(
    records: Sequence[Record], prompting: Prompting, tokenizer: Tokenizer, max_tokens: int
) -> list[EncodedText]:
    """Return sequences of the kinds that the engine can serve, taken in turn by kind.

    Together they have about ``max_tokens`` tokens, each at most `MAX_TOKENS`.
    """
    encoder = _Encoder(tokenizer, prompting.tokens, prompting.chat_format)
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        kind = record["kind"]
        if kind == "plain" or getattr(prompting.capabilities, kind):
            by_kind[kind].append(record)
    chosen: list[EncodedText] = []
    total = 0
    for index in range(max(map(len, by_kind.values()), default=0)):
        for kind in KINDS:
            found = by_kind.get(kind, ())
            if index < len(found) and total < max_tokens:
                encoded = encoder.encode(found[index])
                if encoded.ids:
                    chosen.append(encoded)
                total += len(encoded.ids)
    return chosen


class _Encoder:
    def __init__(self, tokenizer: Tokenizer, tokens: Tokens, chat: ChatFormat | None) -> None:
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._chat = chat
        self._start = [tokens.bos] if tokens.add_bos and tokens.bos is not None else []

    def encode(self, record: Record) -> EncodedText:
        kind = record["kind"]
        if kind == "plain":
            return self._plain(record["text"])
        if kind == "fim":
            return self._fim(record["prefix"], record["suffix"], record["middle"])
        return self._conversation(record["messages"])

    def _plain(self, text: str) -> EncodedText:
        ids = [*self._start, *self._ids(text)][:MAX_TOKENS]
        return self._scored("plain", ids, len(self._start))

    def _fim(self, prefix: str, suffix: str, middle: str) -> EncodedText:
        tokens = self._tokens
        answer = [*self._ids(middle)[: MAX_TOKENS // 2], tokens.eos[0]]
        room = (MAX_TOKENS - len(answer)) // 2
        before, after = self._ids(prefix)[-room:], self._ids(suffix)[:room]
        marks = (tokens.fim_begin, tokens.fim_hole, tokens.fim_end)
        begin, hole, end = (mark for mark in marks if mark is not None)
        prompt = [*self._start, begin, *before, hole, *after, end]
        return self._scored("fim", prompt + answer, len(prompt))

    def _conversation(self, messages: Sequence[Mapping[str, str]]) -> EncodedText:
        chat = self._chat
        if chat is None:
            raise RequestError("the engine has no chat format, so chat text cannot be used")
        text = chat.bos
        for message in messages[:-1]:
            before, after = getattr(chat, message["role"])
            text += before + message["content"] + after
        before, after = chat.assistant
        # The template's bos is text here: encoding it yields its id, once.
        prompt = self._ids(text + before.rstrip(" "))
        answer = self._ids(before[len(before.rstrip(" ")) :] + messages[-1]["content"] + after)
        return self._scored("chat", [*prompt, *answer][:MAX_TOKENS], len(prompt))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _scored(self, kind: str, ids: Sequence[int], start: int) -> EncodedText:
        text = self._tokenizer.decode(list(ids[start:]), skip_special_tokens=True)
        return EncodedText(kind, tuple(ids), max(start, 1), len(text.encode()))
