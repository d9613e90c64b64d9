"""The tensors of Triton's requests and responses: what is declared, and what was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import RequestError

Kind = Literal["STRING", "BOOL", "INT32", "INT64", "UINT64", "FP32"]
Tensors = Mapping[str, NDArray[Any]]
_DTYPES: dict[Kind, Any] = {
    "STRING": np.object_,
    "BOOL": np.bool_,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP32": np.float32,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that a model takes or gives.

    Attributes:
        name: as clients write it.
        kind: its type, without Triton's ``TYPE_``.
        dims: its shape, -1 where any length goes; without the batch.
        optional: requests may leave it out.
    """

    name: str
    kind: Kind
    dims: tuple[int, ...] = (1,)
    optional: bool = True

    def array(self, values: Sequence[Any], shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Return values as this tensor; text becomes UTF-8."""
        if self.kind == "STRING":
            values = [value.encode() if isinstance(value, str) else value for value in values]
        found: NDArray[Any] = np.array(values, _DTYPES[self.kind])
        return found if shape is None else found.reshape(shape)


class Inputs:
    """The tensors of one request, by name; of any shape that holds the values."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def texts(self, name: str) -> list[str] | None:
        """Return all strings of a tensor; None where it was not sent.

        Raises:
            RequestError: one is not UTF-8.
        """
        if name not in self.tensors:
            return None
        found = []
        for value in self.tensors[name].reshape(-1).tolist():
            try:
                found.append(value.decode() if isinstance(value, bytes) else str(value))
            except UnicodeDecodeError as error:
                raise RequestError(
                    f"{name}: is not UTF-8 (byte {error.start:,}); send it as UTF-8"
                ) from error
        return found

    def text(self, name: str) -> str | None:
        """Return the one string of a tensor; None where it was not sent.

        Raises:
            RequestError: there are several, or it is not UTF-8.
        """
        found = self.texts(name)
        if found is None:
            return None
        self._check_one(name, len(found))
        return found[0]

    def whole(self, name: str) -> int | None:
        """Return the one whole number of a tensor; None where it was not sent.

        Raises:
            RequestError: there are several.
        """
        value = self._one(name)
        return None if value is None else int(value)

    def wholes(self, name: str) -> list[int] | None:
        """Return all whole numbers of a tensor; None where it was not sent."""
        if name not in self.tensors:
            return None
        return [int(value) for value in self.tensors[name].reshape(-1)]

    def number(self, name: str) -> float | None:
        """Return the one number of a tensor; None where it was not sent.

        It is the shortest decimal that has these 32 bits: the 0.7 that a client wrote, and not
        0.699999988.

        Raises:
            RequestError: there are several.
        """
        value = self._one(name)
        return None if value is None else float(str(value))

    def flag(self, name: str, default: bool = False) -> bool:
        """Return the one truth value of a tensor; ``default`` where it was not sent.

        Raises:
            RequestError: there are several.
        """
        value = self._one(name)
        return default if value is None else bool(value)

    def _one(self, name: str) -> Any:
        if name not in self.tensors:
            return None
        values = self.tensors[name].reshape(-1)
        self._check_one(name, len(values))
        return values[0]

    def _check_one(self, name: str, count: int) -> None:
        if count != 1:
            raise RequestError(f"{name}: has {count} values; send one")
