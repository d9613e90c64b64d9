"""Held-out text: what an engine is judged on, and what never calibrates or trains.

A file of JSON lines, each with a ``kind``:

- ``{"kind": "plain", "text": …}``
- ``{"kind": "fim", "prefix": …, "suffix": …, "middle": …}``
- ``{"kind": "chat", "messages": [{"role": …, "content": …}, …]}``, the last one the assistant's
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from trtcoder.errors import RequestError
from trtcoder.manifest import ChatFormat, Manifest, Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("plain", "fim", "chat")
MAX_TOKENS = 384


@dataclass(frozen=True, slots=True)
class HeldOutSequence:
    """One sequence of token ids.

    Perplexity counts the tokens from ``scored_from`` on, which stand for ``scored_bytes`` bytes of
    text: all of a plain text, the middle of a FIM example, the answer of a chat.
    """

    kind: str
    ids: tuple[int, ...]
    scored_from: int
    scored_bytes: int


def load_heldout(
    manifest: Manifest, tokenizer: Tokenizer, max_tokens: int, path: Path | None = None
) -> list[HeldOutSequence]:
    """Return sequences of the kinds that the engine can serve, taken in turn by kind.

    Together they have about ``max_tokens`` tokens, each at most `MAX_TOKENS`. ``path`` is a file
    of JSON lines; the built-in set is used without one.

    Raises:
        RequestError: the file is missing or malformed, or holds nothing that can be used.
    """
    source = str(path) if path else "the built-in held-out set"
    try:
        text = (
            path.read_text(encoding="utf-8")
            if path
            else files("trtcoder.calib").joinpath("data/heldout.jsonl").read_text(encoding="utf-8")
        )
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{source}: cannot be read: {error}") from error
    encoder = _Encoder(tokenizer, manifest.tokens, manifest.chat_format)
    by_kind: dict[str, list[HeldOutSequence]] = defaultdict(list)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            kind = record["kind"]
            if kind == "plain" or getattr(manifest.capabilities, kind):
                by_kind[kind].append(encoder.encode(record))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"{source}, line {number}: is not a held-out example ({error!r}); "
                "see `trtcoder verify --help`"
            ) from error
    chosen = _in_turn(by_kind, max_tokens)
    if not chosen:
        raise RequestError(f"{source}: holds no text that this engine can serve")
    return chosen


def _in_turn(
    by_kind: Mapping[str, Sequence[HeldOutSequence]], max_tokens: int
) -> list[HeldOutSequence]:
    chosen: list[HeldOutSequence] = []
    total = 0
    for index in range(max(map(len, by_kind.values()), default=0)):
        for kind in KINDS:
            found = by_kind.get(kind, ())
            if index < len(found) and total < max_tokens:
                chosen.append(found[index])
                total += len(found[index].ids)
    return chosen


class _Encoder:
    def __init__(self, tokenizer: Tokenizer, tokens: Tokens, chat: ChatFormat | None) -> None:
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._chat = chat
        self._start = [tokens.bos] if tokens.add_bos and tokens.bos is not None else []

    def encode(self, record: Mapping[str, object]) -> HeldOutSequence:
        kind = str(record["kind"])
        if kind == "plain":
            return self._plain(str(record["text"]))
        if kind == "fim":
            return self._fim(*(str(record[part]) for part in ("prefix", "suffix", "middle")))
        if kind == "chat":
            messages = record["messages"]
            if not isinstance(messages, list):
                raise TypeError("messages is not a list")
            return self._conversation(messages)
        raise KeyError(f"kind {kind!r}")

    def _plain(self, text: str) -> HeldOutSequence:
        ids = [*self._start, *self._ids(text)][:MAX_TOKENS]
        return self._scored("plain", ids, len(self._start))

    def _fim(self, prefix: str, suffix: str, middle: str) -> HeldOutSequence:
        tokens = self._tokens
        answer = [*self._ids(middle)[: MAX_TOKENS // 2], tokens.eos[0]]
        room = (MAX_TOKENS - len(answer)) // 2
        before, after = self._ids(prefix)[-room:], self._ids(suffix)[:room]
        marks = (tokens.fim_begin, tokens.fim_hole, tokens.fim_end)
        begin, hole, end = (mark for mark in marks if mark is not None)
        prompt = [*self._start, begin, *before, hole, *after, end]
        return self._scored("fim", prompt + answer, len(prompt))

    def _conversation(self, messages: Sequence[Mapping[str, str]]) -> HeldOutSequence:
        if self._chat is None:
            raise KeyError("the engine has no chat format")
        text = self._chat.bos
        for message in messages[:-1]:
            before, after = getattr(self._chat, message["role"])
            text += before + message["content"] + after
        before, after = self._chat.assistant
        # The template's bos is text here: encoding it yields its id, once.
        prompt = self._ids(text + before.rstrip(" "))
        answer = self._ids(before[len(before.rstrip(" ")) :] + messages[-1]["content"] + after)
        return self._scored("chat", [*prompt, *answer][:MAX_TOKENS], len(prompt))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _scored(self, kind: str, ids: Sequence[int], start: int) -> HeldOutSequence:
        text = self._tokenizer.decode(list(ids[start:]), skip_special_tokens=True)
        return HeldOutSequence(kind, tuple(ids), max(start, 1), len(text.encode()))
