"""Reads JSON values as frozen dataclasses, by their annotations, and makes them of these again.

A value of another type is an error that names its place, such as ``graph.caches[3].width``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

_Read = TypeVar("_Read")

_JSON_NAMES = {
    dict: "an object",
    tuple: "an array",
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
}
# Of a value that is not what it should be, so that an error stays one line.
_SHOWN_CHARACTERS = 60
# What other readers of JSON take; Python's integers have no end, and its floats do.
_LARGEST = 2**63 - 1


class MismatchError(Exception):
    """A value of another type than its field, or keys that are missing or unknown."""


def read(kind: type[_Read], value: object, *, unknown_keys: bool = False) -> _Read:
    """Return ``value``, as `json.loads` gave it, as an instance of the dataclass ``kind``.

    A key has its field's name, or the one in the field's metadata under ``key``. One whose field
    has a default may be absent. A float that is null reads as NaN: JSON has no other way to write
    it.

    Args:
        kind: a dataclass of str, int, float, bool, object, unions with None, tuples (of one type,
            or of a fixed length), dicts (with keys of str or int) and other dataclasses.
        value: the parsed JSON.
        unknown_keys: whether keys without a field are passed over; otherwise they are an error.

    Raises:
        MismatchError: the value does not have this form; the message names the place.
    """
    result: _Read = _Reader(unknown_keys).dataclass(kind, value, "")
    return result


def plain(value: object) -> Any:
    """Return what `read` reads again, for `json.dumps`; a number that is not finite is null.

    A field whose metadata has ``omit_none`` is left out where it is None.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((field.metadata, field.name) for field in dataclasses.fields(value))
        return {
            metadata.get("key", name): plain(getattr(value, name))
            for metadata, name in items
            if not (metadata.get("omit_none") and getattr(value, name) is None)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: Any
    required: bool


@functools.cache
def _fields(kind: Any) -> dict[str, _Field]:
    """Return the fields by their key in JSON."""
    hints = typing.get_type_hints(kind)
    return {
        field.metadata.get("key", field.name): _Field(
            field.name,
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }


class _Reader:
    def __init__(self, unknown_keys: bool) -> None:
        self._unknown_keys = unknown_keys

    def dataclass(self, kind: Any, value: object, where: str) -> Any:
        label = f"{where}: " if where else ""
        if not isinstance(value, Mapping):
            raise MismatchError(f"{label}expected an object, found {_shown(value)}")
        fields = _fields(kind)
        missing = sorted(
            key for key, field in fields.items() if field.required and key not in value
        )
        unknown = [] if self._unknown_keys else sorted(value.keys() - fields.keys())
        if missing or unknown:
            parts = [f"missing {', '.join(missing)}"] if missing else []
            parts += [f"unknown {', '.join(unknown)}"] if unknown else []
            raise MismatchError(f"{label}{'; '.join(parts)}")
        prefix = f"{where}." if where else ""
        return kind(
            **{
                field.name: self._convert(field.kind, value[key], f"{prefix}{key}")
                for key, field in fields.items()
                if key in value
            }
        )

    def _convert(self, kind: Any, value: object, where: str) -> Any:
        """Return ``value`` as ``kind``: a dataclass, container, union with None, or scalar."""
        if dataclasses.is_dataclass(kind):
            return self.dataclass(kind, value, where)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is types.UnionType:
            return None if value is None else self._convert(arguments[0], value, where)
        if origin is tuple and isinstance(value, list):
            return self._tuple(arguments, value, where)
        if origin is dict and isinstance(value, dict):
            return {
                _key(arguments[0], key, where): self._convert(arguments[1], item, f"{where}.{key}")
                for key, item in value.items()
            }
        if kind is float and (value is None or type(value) in (int, float)):
            return _float(value, where)
        if kind is str and isinstance(value, str):
            return _text(value, where)
        if kind is int and type(value) is int and abs(value) > _LARGEST:
            raise MismatchError(f"{where}: too large for an integer")
        # bool is an int in Python, but not in JSON.
        if kind is object or (origin is None and type(value) is kind):
            return value
        expected = _JSON_NAMES[origin or kind]
        raise MismatchError(f"{where}: expected {expected}, found {_shown(value)}")

    def _tuple(self, arguments: tuple[Any, ...], value: list[object], where: str) -> Any:
        if arguments[-1] is Ellipsis:
            kinds = arguments[:1] * len(value)
        elif len(arguments) == len(value):
            kinds = arguments
        else:
            raise MismatchError(
                f"{where}: expected an array of {len(arguments)}, found {_shown(value)}"
            )
        return tuple(
            self._convert(kind, item, f"{where}[{index}]")
            for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )


def _float(value: Any, where: str) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError as error:
        raise MismatchError(f"{where}: too large for a number") from error


def _text(value: str, where: str) -> str:
    """Refuse half a surrogate pair, which JSON can spell and no file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MismatchError(f"{where}: not Unicode text, found {ascii(value)[:60]}") from error
    return value


def _key(kind: Any, key: str, where: str) -> object:
    if kind is str:
        return _text(key, where)
    # int() would take " 3", "+3" and "1_0" as well.
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise MismatchError(f"{where}: expected integers as keys, found {_shown(key)}")
    return int(key)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
