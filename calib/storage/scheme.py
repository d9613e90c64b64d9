"""How one weight matrix is stored: bits, block size, zero points."""

from __future__ import annotations

from dataclasses import dataclass

from trtcoder.errors import BuildError


@dataclass(frozen=True, slots=True)
class Scheme:
    """Block-wise integer storage of a matrix ``[N, K]``, in blocks along K.

    ``bits`` is 4 or 8, or 32 for plain float32. ``block_size`` is a power of two of at least 16.
    A symmetric block has the implied zero point ``2 ** (bits - 1)``; an asymmetric one stores its
    own. Scales are stored as float16; with ``bfloat16_scales`` they have eight significant bits, so
    that bfloat16 holds them as well. Those of symmetric 4-bit blocks may be negative, unless
    ``positive_scales``, which costs half of the blocks an eighth of their resolution.
    """

    bits: int
    block_size: int = 32
    symmetric: bool = True
    bfloat16_scales: bool = False
    positive_scales: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 32):
            raise BuildError(f"bits: {self.bits} is not supported; use 4, 8 or 32")
        if self.block_size < 16 or self.block_size & (self.block_size - 1):
            raise BuildError(
                f"block size: {self.block_size} is not supported; "
                "use a power of two of at least 16, such as 32, 64 or 128"
            )

    @property
    def is_float(self) -> bool:
        """Whether weights stay float32."""
        return self.bits == 32

    @property
    def top(self) -> int:
        """The largest code."""
        return int((1 << self.bits) - 1)

    @property
    def middle(self) -> int:
        """The zero point of symmetric blocks."""
        return int(1 << (self.bits - 1))

    def blocks(self, width: int) -> int:
        """Blocks that cover a row of ``width`` values; the last one may be padded with zeros."""
        return -(-width // self.block_size)

    def bits_per_weight(self, width: int) -> float:
        """Stored bits per weight of a row of ``width`` values, scales and zero points included."""
        if self.is_float:
            return 32.0
        blocks = self.blocks(width)
        zero_points = 0 if self.symmetric else 8 * -(-blocks * self.bits // 8)
        return (blocks * (self.block_size * self.bits + 16) + zero_points) / width

    def __str__(self) -> str:
        if self.is_float:
            return "fp32"
        return f"int{self.bits} b{self.block_size}{'' if self.symmetric else ' zp'}"


FLOAT32 = Scheme(bits=32)
