"""Reads files of JSON lines, compressed or not, as suites are published."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trtcoder.errors import EvaluationError
from trtcoder.refusals import reason


class Record:
    """An object of a file, whose fields are read with their type and named in errors."""

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        self.place = place
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, *keys: str) -> str:
        """Return the text under the first of ``keys`` that is there.

        Raises:
            EvaluationError: none is, or it is no text.
        """
        return str(self._value(keys, str, "text"))

    def list(self, *keys: str) -> list[Any]:
        """Return the array under the first of ``keys`` that is there."""
        found: list[Any] = self._value(keys, list, "an array")
        return found

    def name(self, *keys: str) -> str:
        """Return a name, which may be a number in the file."""
        return str(self._value(keys, (str, int), "a name"))

    def get(self, key: str, default: Any = None) -> Any:
        """Return what is under ``key``, whatever it is."""
        return self._values.get(key, default)

    def _value(self, keys: tuple[str, ...], kind: Any, what: str) -> Any:
        for key in keys:
            if key in self._values:
                if isinstance(self._values[key], kind):
                    return self._values[key]
                raise EvaluationError(f"{self.place}: {key} is not {what}; {_REMEDY}")
        raise EvaluationError(f"{self.place}: has no {' or '.join(keys)}; {_REMEDY}")


_REMEDY = "give the suite's file as it is published (docs/evaluation.md names it)"


def read_records(path: Path) -> Iterator[Record]:
    """Yield the objects of a file: one a line, or all in one array.

    Raises:
        EvaluationError: it cannot be read, or is no such file.
    """
    try:
        data = path.read_bytes()
        if data[:4] == b"PAR1":
            raise EvaluationError(
                f"{path}: is Parquet; make JSON lines of it, as docs/evaluation.md shows"
            )
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: cannot be read ({reason(error)})") from error
    except (EOFError, zlib.error) as error:
        raise EvaluationError(f"{path}: is cut short; fetch it again") from error
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1)]
    if text.lstrip().startswith("["):
        values = _parsed(str(path), text)
        places = [(f"{path}, entry {number}", value) for number, value in enumerate(values, 1)]
    else:
        places = [(place, _parsed(place, line)) for place, line in lines if line.strip()]
    for place, value in places:
        if not isinstance(value, dict):
            raise EvaluationError(f"{place}: is no object; {_REMEDY}")
        yield Record(place, value)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{place}: is not JSON ({reason(error)}); {_REMEDY}") from error
