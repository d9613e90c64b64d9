"""Chooses how each class is stored: the fewest bytes for a KL, or the least KL for bytes.

What storing one class costs is measured with all others as they are; the KL of a choice is taken to
be the sum over its classes. That is exact to second order for errors that are independent of each
other; what it misses is made good by measuring the result (`export.precision.mixed`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store a class: the bytes it takes, and the KL in nats that it alone costs."""

    scheme: Scheme
    nbytes: int
    kl: float


@dataclass(frozen=True, slots=True)
class Choice:
    """An option for each class."""

    options: Mapping[str, Option]

    @property
    def nbytes(self) -> int:
        """Bytes of all classes."""
        return sum(option.nbytes for option in self.options.values())

    @property
    def kl(self) -> float:
        """The sum of the classes' KL, in nats."""
        return sum(option.kl for option in self.options.values())

    @property
    def schemes(self) -> dict[str, Scheme]:
        """How each class is stored."""
        return {kind: option.scheme for kind, option in self.options.items()}


class Choices:
    """All combinations of the classes' options.

    ``alike`` are classes that one kernel takes, whose blocks must have the same size.
    """

    def __init__(
        self, options: Mapping[str, Sequence[Option]], alike: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Enumerate them: a few hundred thousand for six classes of eight options."""
        self._kinds = list(options)
        self._options = [list(options[kind]) for kind in self._kinds]
        counts = [range(len(found)) for found in self._options]
        table = np.array(list(itertools.product(*counts)), np.int16).reshape(-1, len(counts))
        for first, second in alike:
            sizes = [self._block_sizes(kind)[table[:, self._kinds.index(kind)]]
                     for kind in (first, second)]  # fmt: skip
            table = table[sizes[0] == sizes[1]]
        self._table = table
        self._bytes = self._sum([[option.nbytes for option in found] for found in self._options])
        self._kl = self._sum([[option.kl for option in found] for found in self._options])

    def smallest(self, max_kl: float) -> Choice:
        """Return the choice of fewest bytes whose KL is at most ``max_kl`` nats.

        Raises:
            BuildError: none is that good.
        """
        allowed = np.flatnonzero(self._kl <= max_kl)
        if not len(allowed):
            raise BuildError(
                f"no choice of schemes is expected to keep the KL at or below {max_kl:.3g} nats; "
                f"the best is expected to cost {self._kl.min():.3g}"
            )
        order = np.lexsort([self._kl[allowed], self._bytes[allowed]])
        return self._choice(int(allowed[order[0]]))

    def best(self, max_bytes: int) -> Choice:
        """Return the choice of least KL that takes at most ``max_bytes``.

        Raises:
            BuildError: none is that small.
        """
        allowed = np.flatnonzero(self._bytes <= max_bytes)
        if not len(allowed):
            raise BuildError(
                f"no choice of schemes fits into {max_bytes:,} bytes of weights; the smallest "
                f"takes {int(self._bytes.min()):,}"
            )
        order = np.lexsort([self._bytes[allowed], self._kl[allowed]])
        return self._choice(int(allowed[order[0]]))

    def _block_sizes(self, kind: str) -> NDArray[np.int64]:
        options = self._options[self._kinds.index(kind)]
        return np.array([option.scheme.block_size for option in options])

    def _sum(self, values: Sequence[Sequence[float]]) -> NDArray[np.float64]:
        total = np.zeros(len(self._table))
        for column, found in enumerate(values):
            total += np.array(found, np.float64)[self._table[:, column]]
        return total

    def _choice(self, row: int) -> Choice:
        indices = self._table[row].tolist()
        return Choice(
            {
                kind: options[index]
                for kind, options, index in zip(self._kinds, self._options, indices, strict=True)
            }
        )
