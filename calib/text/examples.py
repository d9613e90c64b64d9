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
from typing import Any

from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Prompts
from trtcoder.refusals import reason

# Lines in a row, blank ones left out, that make two texts share a passage.
SHARED_LINES = 4
KINDS = ("plain", "fim", "chat")
MAX_TOKENS = 384

Record = Mapping[str, Any]


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
        raise RequestError(f"{path}: cannot be read ({reason(error)})") from error
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


def passages(record: Record) -> Iterator[tuple[str, ...]]:
    """Return all runs of `SHARED_LINES` lines, blank ones left out; texts that share one overlap.

    A text of fewer lines is one run.
    """
    lines = [line.strip() for line in spoken_text(record).splitlines() if line.strip()]
    for start in range(max(1, len(lines) - SHARED_LINES + 1)):
        yield tuple(lines[start : start + SHARED_LINES])


def encode_records(
    records: Sequence[Record], prompts: Prompts, max_tokens: int
) -> list[EncodedText]:
    """Return sequences of the kinds that the engine can serve, taken in turn by kind.

    Together they have about ``max_tokens`` tokens, each at most `MAX_TOKENS`. Conversations that
    the model's chat template refuses are left out.
    """
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        kind = record["kind"]
        if kind == "plain" or getattr(prompts.format.capabilities, kind):
            by_kind[kind].append(record)
    chosen: list[EncodedText] = []
    total = 0
    for index in range(max(map(len, by_kind.values()), default=0)):
        for kind in KINDS:
            found = by_kind.get(kind, ())
            if index < len(found) and total < max_tokens:
                encoded = _encode(found[index], prompts)
                if encoded.ids:
                    chosen.append(encoded)
                total += len(encoded.ids)
    return chosen


def _encode(record: Record, prompts: Prompts) -> EncodedText:
    """Encode a record as the engine's prompts are encoded: what spells a control token is text."""
    encode = prompts.tokenizer.encode
    if record["kind"] == "plain":
        prompt, answer = prompts.start(), encode(record["text"])
    elif record["kind"] == "fim":
        end = prompts.format.tokens.eos[0]
        answer = [*encode(record["middle"])[: MAX_TOKENS // 2], end]
        room = (MAX_TOKENS - len(answer)) // 2
        before, after = encode(record["prefix"])[-room:], encode(record["suffix"])[:room]
        prompt = prompts.fim_of_ids(before, after)
    else:
        try:
            prompt, answer = prompts.conversation(record["messages"])
        except RequestError:
            return EncodedText("chat", (), 1, 0)
    ids = (*prompt, *answer)
    if record["kind"] != "fim":  # which is cut around its hole
        ids = ids[:MAX_TOKENS]
    scored = prompts.tokenizer.decode(ids[len(prompt) :])
    return EncodedText(record["kind"], ids, max(len(prompt), 1), len(scored.encode()))
