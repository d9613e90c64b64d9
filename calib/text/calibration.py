"""Text that calibrates: from a folder of source files, a file of JSON lines, or the built-in set.

What the engine is judged on never calibrates: records that share a few lines in a row with the
held-out text are left out.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtcoder.calib.text.examples import (
    KINDS,
    EncodedText,
    Record,
    encode_records,
    passages,
    read_built_in,
    read_records,
)
from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Prompts

_SUFFIXES = (
    "bash c cc cpp cs css cu cuh dart go h hpp hs html java jl js json jsx kt lua m md ml php pl "
    "proto py r rb rs scala sh sql swift tf toml ts tsx vue yaml yml zig"
)
SOURCE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split(" "))
MAX_FILE_BYTES = 200_000
_PIECE = (300, 1500)  # characters


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Sequences that calibrate, and where they came from.

    Attributes:
        sequences: token ids.
        source: ``built-in``, or the name of the file or folder.
        seed: what shuffled and cut them.
        digest: sha256 over all token ids in their order.
        dropped: records left out because they share a passage with the held-out text.
    """

    sequences: tuple[EncodedText, ...]
    source: str
    seed: int
    digest: str
    dropped: int

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def kinds(self) -> dict[str, int]:
        """Number of tokens by kind of text."""
        found: Counter[str] = Counter()
        for sequence in self.sequences:
            found[sequence.kind] += len(sequence.ids)
        return dict(found)

    def to_dict(self) -> dict[str, object]:
        """Return what tells it from other text."""
        return {
            "source": self.source,
            "digest": self.digest,
            "seed": self.seed,
            "sequences": len(self.sequences),
            "tokens": self.tokens,
            "kinds": self.kinds,
            "dropped": self.dropped,
        }


def load_calibration(
    prompts: Prompts,
    max_tokens: int,
    path: Path | None = None,
    seed: int = 0,
    heldout: Path | None = None,
) -> CalibrationText:
    """Return about ``max_tokens`` tokens of text of the kinds that the engine can serve.

    Args:
        prompts: the engine's.
        max_tokens: tokens in all.
        path: a folder of source files, or a file of JSON lines; the built-in set without one.
        seed: the same seed gives the same sequences.
        heldout: the text that the engine will be judged on; the built-in set without one.

    Raises:
        RequestError: the text is missing or malformed, or nothing of it can be used.
    """
    rng = random.Random(seed)
    if path is None:
        source, records = "built-in", read_built_in("calibration")
    elif path.is_dir():
        source, records = path.name, list(_from_folder(path, rng))
    else:
        source, records = path.name, read_records(path)
    judged = read_records(heldout) if heldout else read_built_in("heldout")
    held_out = {passage for record in judged for passage in passages(record)}
    kept = [record for record in records if held_out.isdisjoint(passages(record))]
    rng.shuffle(kept)
    sequences = tuple(encode_records(kept, prompts, max_tokens))
    if not sequences:
        raise RequestError(
            f"{path or 'the built-in calibration set'}: holds no text that this engine can serve "
            f"and that is not held out ({len(records)} examples, {len(records) - len(kept)} of "
            "them held out)"
        )
    ids = json.dumps([sequence.ids for sequence in sequences]).encode()
    digest = hashlib.sha256(ids).hexdigest()
    return CalibrationText(sequences, source, seed, digest, len(records) - len(kept))


def _from_folder(folder: Path, rng: random.Random) -> Iterator[Record]:
    """Return pieces of a folder's source files, each as plain text, FIM or chat in turn."""
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SOURCE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
        and 0 < path.stat().st_size <= MAX_FILE_BYTES
    ]
    if not paths:
        raise RequestError(
            f"{folder}: has no source files of at most {MAX_FILE_BYTES:,} bytes "
            "(known by their suffix, such as .py or .cpp)"
        )
    rng.shuffle(paths)
    turn = 0
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        for piece in _pieces(text, rng):
            yield _as_kind(KINDS[turn % len(KINDS)], piece, path.name, rng)
            turn += 1


def _as_kind(kind: str, piece: str, name: str, rng: random.Random) -> Record:
    if kind == "plain":
        return {"kind": kind, "text": piece}
    if kind == "fim":
        prefix, middle, suffix = _cut(piece, rng)
        return {"kind": kind, "prefix": prefix, "suffix": suffix, "middle": middle}
    request = f"Write the next part of {name}."
    answer = {"role": "assistant", "content": f"```\n{piece}```"}
    return {"kind": kind, "messages": [{"role": "user", "content": request}, answer]}


def _cut(text: str, rng: random.Random) -> tuple[str, str, str]:
    """Cut where an editor's cursor stands: at some place of a line, up to the end of a line."""
    lines = text.splitlines(keepends=True)
    first = rng.randrange(len(lines))
    last = min(first + rng.choice((1, 1, 1, 2, 3)), len(lines))
    column = rng.randrange(len(lines[first]))
    prefix = "".join(lines[:first]) + lines[first][:column]
    rest = "".join(lines[first:last])[column:]
    middle = rest.rstrip("\n")
    return prefix, middle, rest[len(middle) :] + "".join(lines[last:])


def _pieces(text: str, rng: random.Random) -> Iterator[str]:
    """Cut a file into runs of whole lines."""
    piece: list[str] = []
    size, limit = 0, rng.randint(*_PIECE)
    for line in _with_end(text.splitlines(keepends=True)):
        piece.append(line)
        size += len(line)
        if size >= limit:
            yield "".join(piece)
            piece, size, limit = [], 0, rng.randint(*_PIECE)
    if size > _PIECE[0] // 3:
        yield "".join(piece)


def _with_end(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield line[: _PIECE[1]]
