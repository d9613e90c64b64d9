"""Paged latent attention in float64 NumPy, from the papers: what a fused kernel must compute.

Sources: DeepSeek-V2 (arXiv 2405.04434), section 2.1, in the absorbed form; PagedAttention
(arXiv 2309.06180), section 4.1, for the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_TYPES: dict[str, Any] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "fp8": ml_dtypes.float8_e4m3fn,
}
_LARGEST = {"int8": 127, "fp8": 448}


@dataclass(frozen=True)
class CacheForm:
    """How a cache stores a row: one of ``fp32``, ``fp16``, ``bf16``, ``int8``, ``fp8``.

    ``scales`` ``[W]`` are what the codes of the last two are multiplied with.
    """

    kind: str
    scales: NDArray[np.float32] | None = None

    @property
    def dtype(self) -> Any:
        return _TYPES[self.kind]

    def encode(self, rows: NDArray[Any]) -> NDArray[Any]:
        if self.scales is None:
            return rows.astype(self.dtype)
        top = _LARGEST[self.kind]
        levels = np.clip(rows.astype(np.float32) / self.scales, -top, top)
        levels = np.rint(levels) if self.kind == "int8" else levels
        codes: NDArray[Any] = levels.astype(self.dtype)
        return codes

    def decode(self, codes: NDArray[Any]) -> Doubles:
        values: Doubles = codes.astype(np.float64)
        return values if self.scales is None else values * self.scales


@dataclass(frozen=True)
class PagedBatch:
    """What says where tokens are: as `PagedAttention` takes it."""

    query_starts: NDArray[np.integer[Any]]
    past_lengths: NDArray[np.integer[Any]]
    block_table: NDArray[np.integer[Any]]
    slots: NDArray[np.integer[Any]]

    @classmethod
    def of(
        cls, past: list[int], new: list[int], block: int, order: np.random.Generator
    ) -> tuple[PagedBatch, int]:
        """Return the batch of sequences with blocks in any order, and the number of blocks."""
        needed = [-(-(p + n) // block) for p, n in zip(past, new, strict=True)]
        pool = order.permutation(sum(needed))
        table = np.full((len(past), max(needed)), -1, np.int32)
        slots, first = [], 0
        for row, (count, p, n) in enumerate(zip(needed, past, new, strict=True)):
            table[row, :count] = pool[first : first + count]
            first += count
            where = np.arange(p, p + n)
            slots.append(table[row, where // block] * block + where % block)
        starts = np.cumsum([0, *new]).astype(np.int32)
        batch = cls(starts, np.array(past, np.int32), table, np.concatenate(slots).astype(np.int32))
        return batch, sum(needed)

    @property
    def metadata(self) -> NDArray[np.int32]:
        """The most new tokens of a sequence, the most tokens in all, and 0."""
        new = np.diff(self.query_starts)
        return np.array([new.max(), (self.past_lengths + new).max(), 0], np.int32)


def attend(
    query: NDArray[Any],
    entry: NDArray[Any],
    cache: NDArray[Any],
    batch: PagedBatch,
    form: CacheForm,
    *,
    heads: int,
    value: int,
    scale: float,
) -> Doubles:
    """Write ``entry`` ``[T, W]`` into ``cache`` ``[blocks, block, W]``, codes of ``form``; attend.

    ``query`` is ``[T, heads * W]``. Returns ``[T, heads * value]``: a token sees the rows of its
    sequence up to its own, and the leading ``value`` channels of a row are the values.
    """
    block, width = cache.shape[-2:]
    flat = cache.reshape(-1, width)
    flat[batch.slots] = form.encode(entry)
    out = np.empty((len(query), heads, value))
    for row, past in enumerate(batch.past_lengths):
        first, end = batch.query_starts[row : row + 2]
        where = np.arange(past + end - first)
        slots = batch.block_table[row, where // block] * block + where % block
        keys = form.decode(flat[slots])
        for token in range(first, end):
            seen = keys[: past + token - first + 1]
            scores = query[token].astype(np.float64).reshape(heads, width) @ seen.T * scale
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[token] = weights @ seen[:, :value]
    return out.reshape(len(query), heads * value)
