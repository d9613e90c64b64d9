"""Finds values that are not finite by their bits, at the speed of memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Stored type -> bytes a value, and the bits of the smallest magnitude that is not finite.
_LIMITS = {
    "BF16": (2, 0x7F80),
    "F16": (2, 0x7C00),
    "F32": (4, 0x7F800000),
    "F8_E4M3": (1, 0x7F),
}
# Values that are looked at together stay in the second-level cache for the second look.
_BYTES = 1 << 19


def first_not_finite(values: NDArray[np.generic], stored: str) -> tuple[int, ...] | None:
    """Return the index of the first infinity or NaN in ``values``, None if all are finite.

    ``stored`` is the type of the values in safetensors' terms, whatever NumPy type their bits are
    seen as.
    """
    size, limit = _LIMITS[stored]
    flat = np.ascontiguousarray(values).reshape(-1)
    unsigned, signed = flat.view(f"u{size}"), flat.view(f"i{size}")
    sign = 1 << (8 * size - 1)
    step = _BYTES // size
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        # As whole numbers, with and without a sign, what is not finite is above all that is: two
        # reductions that run in vectors and make no copy.
        if signed[part].max() >= limit or unsigned[part].max() >= limit | sign:
            found = start + int(np.argmax((unsigned[part] & (sign - 1)) >= limit))
            return tuple(int(index) for index in np.unravel_index(found, values.shape))
    return None
