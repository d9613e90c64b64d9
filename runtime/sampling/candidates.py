"""Selection among 100,000 numbers without sorting them, in tens of microseconds.

Rows are float32 [V] without NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
_RUN = 64
_ONES = np.ones(_RUN, np.float32)
# So many candidates are sorted.
_FEW = 2048


def largest(row: Row, k: int) -> NDArray[np.intp]:
    """Return the ids of the ``k`` largest numbers, descending; equal ones by ascending id.

    The row is cut into runs. The k-th largest of their maxima is a bound that at least k numbers
    reach, and few more do.
    """
    size, runs = len(row), len(row) // _RUN
    if k >= size:
        return np.argsort(-row, kind="stable")
    if k <= runs // 2:
        maxima = row[: runs * _RUN].reshape(_RUN, runs).max(axis=0)
        bound = np.partition(maxima, runs - k)[runs - k]
    else:
        bound = np.partition(row, size - k)[size - k]
    ids = np.flatnonzero(row >= bound)
    if len(ids) > 2 * k + _FEW:  # many equal numbers
        bound = np.partition(row[ids], len(ids) - k)[len(ids) - k]
        above = np.flatnonzero(row > bound)
        ids = np.concatenate([above, np.flatnonzero(row == bound)[: k - len(above)]])
    return ids[np.argsort(-row[ids], kind="stable")[:k]]


def log_sum_exp(row: Row) -> float:
    """Return log(sum(exp(row))), to about 1e-6 relative."""
    top = row.max()
    powers = row - top
    np.exp(powers, out=powers)
    return float(top) + float(np.log(powers.sum(dtype=np.float64)))


def keep_nucleus(weights: Row, top_p: float) -> None:
    """Set to 0 what top-p drops of ``weights``, unnormalised probabilities, in place.

    What stays is the shortest prefix, in descending order, whose sum reaches ``top_p`` of the total
    (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751); equal weights by ascending id.
    """
    total = float(weights.sum(dtype=np.float64))
    target = top_p * total
    # The n weights below (1 - top_p) / n of the total sum to less than 1 - top_p.
    low = np.float32((1.0 - top_p) / len(weights) * total)
    high, above = np.float32(np.inf), 0.0  # the weights from `high` on sum to `above` < target
    mask = weights >= low
    while np.count_nonzero(mask & (weights < high)) > _FEW:
        top = weights.max() if np.isinf(high) else high
        middle = np.float32(np.sqrt(np.float64(max(low, np.float32(1e-30))) * np.float64(top)))
        if not low < middle < top:
            break
        inside = weights >= middle
        mass = float(np.dot(weights, inside.astype(np.float32)))
        if mass < target:
            high, above = middle, mass
        else:
            low, mask = middle, inside
    between = np.flatnonzero(mask & (weights < high))
    between = between[np.argsort(-weights[between], kind="stable")]
    sums = above + np.cumsum(weights[between], dtype=np.float64)
    count = 1 + int(np.searchsorted(sums, target, side="left"))
    if count >= len(between):
        weights[~mask] = 0
        return
    weights[between[count:]] = 0
    weights[~mask] = 0


def draw(weights: Row, point: float) -> int:
    """Return the index at which the running sum of ``weights`` passes ``point`` of its total.

    Weights are not negative, and ``point`` is in [0, 1).
    """
    runs = -(-len(weights) // _RUN)
    if len(weights) % _RUN:
        weights = np.concatenate([weights, np.zeros(runs * _RUN - len(weights), np.float32)])
    by_run = weights.reshape(runs, _RUN)
    sums = np.cumsum(by_run @ _ONES, dtype=np.float64)
    run = int(np.searchsorted(sums, point * sums[-1], side="right"))
    run = min(run, int(np.flatnonzero(sums == sums[-1])[0]))
    before = float(sums[run - 1]) if run else 0.0
    inside = np.cumsum(by_run[run], dtype=np.float64)
    place = int(np.searchsorted(inside, point * sums[-1] - before, side="right"))
    # Sums of runs and sums inside them are rounded apart: end at the last weight above zero.
    return run * _RUN + min(place, int(np.flatnonzero(by_run[run])[-1]))
