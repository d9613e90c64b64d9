"""Latent attention as a NumPy function of the library, and its formula in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.plugins.kernels import Floats, aligned, library, pointer

BLOCK = 16
CACHES = ("float32", "float16", "bfloat16", "int8", "float8")
WEIGHTS = ("int8", "float32", "float16", "bfloat16")
ARITHMETICS = ("float32", "int16")
STORED = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "float8": ml_dtypes.float8_e4m3fn,
}
TOKEN_FIELDS = ("query_nope", "query_rope", "latent", "key_rope", "angles")
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class HeadWeights:
    """A matrix for each head, as the kernel takes them."""

    values: NDArray[np.generic]  # [heads, inputs, outputs]
    scales: NDArray[np.float16] | None = None  # [heads, blocks, outputs]


class CAttention(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("heads", "nope", "rope", "latent", "value")],
        *[(name, ctypes.c_void_p) for name in ("query_nope", "query_rope", "latents", "key_rope")],
        *[
            (f"{name}_stride", ctypes.c_int64)
            for name in ("query_nope", "query_rope", "latent", "key_rope")
        ],
        *[(name, ctypes.c_void_p) for name in ("norm", "cosines", "sines")],
        ("epsilon", ctypes.c_float),
        ("softmax_scale", ctypes.c_float),
        ("arithmetic", ctypes.c_int32),
        ("weight_type", ctypes.c_int32),
        ("absorb_key", ctypes.c_void_p),
        ("absorb_value", ctypes.c_void_p),
        ("absorb_key_scales", ctypes.c_void_p),
        ("absorb_value_scales", ctypes.c_void_p),
        ("weight_block", ctypes.c_int64),
        *[(name, ctypes.c_int64) for name in ("tokens", "sequences", "blocks")],
        *[(name, ctypes.c_void_p) for name in ("positions", "slots", "sequence_of", "block_table")],
        ("cache_type", ctypes.c_int32),
        ("entries", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("out", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Shape:
    heads: int = 2
    nope: int = 8
    rope: int = 4
    latent: int = 16
    value: int = 8

    @property
    def width(self) -> int:
        return self.latent + self.rope

    @property
    def group(self) -> int:
        return int(np.gcd.reduce([64, self.latent, self.rope]))


@dataclass
class Cache:
    """Rows of one layer; what nobody has written is not a number."""

    kind: str
    shape: Shape
    rows: int
    entries: NDArray[np.generic] = field(init=False)
    scales: Floats | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        size = (self.rows, self.shape.width)
        if self.kind in ("int8", "float8"):
            self.entries = np.full(size, 0x7F, np.uint8).view(STORED[self.kind])
            groups = self.shape.width // self.shape.group
            self.scales = np.full((self.rows, groups), np.nan, np.float32)
        else:
            self.entries = np.full(size, np.nan, STORED[self.kind])

    @property
    def bits(self) -> NDArray[Any]:
        """The entries as whole numbers: NaN equals itself."""
        return self.entries.view(f"u{self.entries.dtype.itemsize}")

    def values(self, rows: Indices) -> Doubles:
        """Return what rows stand for, ``[len(rows), width]``."""
        found = self.entries[rows].astype(np.float64)
        if self.scales is None:
            return found
        grouped = found.reshape(len(rows), -1, self.shape.group)
        scaled: Doubles = grouped * self.scales[rows].astype(np.float64)[..., None]
        return scaled.reshape(len(rows), -1)


@dataclass
class Layer:
    """One layer's weights, as the kernel takes them and as float64."""

    shape: Shape
    kind: str
    block: int  # of int8 weights
    norm: Floats
    key: Doubles  # [heads, nope, latent]
    value: Doubles  # [heads, latent, value]
    stored_key: HeadWeights
    stored_value: HeadWeights
    softmax_scale: float = 0.3
    epsilon: float = 1e-6

    @classmethod
    def random(
        cls, rng: np.random.Generator, shape: Shape, kind: str, block: int | None = None
    ) -> Layer:
        block = int(rng.choice([1, 5, 32])) if block is None else block
        norm = rng.uniform(0.5, 1.5, shape.latent).astype(np.float32)

        def random_heads(inputs: int, outputs: int) -> tuple[Doubles, HeadWeights]:
            if kind == "int8":
                codes = aligned(rng.integers(-128, 128, (shape.heads, inputs, outputs), np.int8))
                blocks = -(-inputs // block)
                scales = rng.standard_normal((shape.heads, blocks, outputs)) * 0.01
                stored = HeadWeights(codes, aligned(scales.astype(np.float16)))
                assert stored.scales is not None
                spread = stored.scales.astype(np.float64).repeat(block, axis=1)[:, :inputs]
                return codes * spread, stored
            values = rng.standard_normal((shape.heads, inputs, outputs)) / np.sqrt(inputs)
            exact = aligned(values.astype(STORED[kind]))
            return exact.astype(np.float64), HeadWeights(exact)

        key, stored_key = random_heads(shape.nope, shape.latent)
        value, stored_value = random_heads(shape.latent, shape.value)
        return cls(shape, kind, block, norm, key, value, stored_key, stored_value)


@dataclass(frozen=True)
class Tokens:
    """What the projections give of tokens, and their angles."""

    query_nope: Floats  # [tokens, heads * nope]
    query_rope: Floats
    latent: Floats
    key_rope: Floats
    angles: Floats  # [tokens, rope / 2]

    @classmethod
    def random(cls, rng: np.random.Generator, shape: Shape, positions: Indices) -> Tokens:
        count = len(positions)

        def normal(width: int) -> Floats:
            return rng.standard_normal((count, width)).astype(np.float32)

        frequencies = 10.0 ** -np.arange(shape.rope // 2)
        return cls(
            normal(shape.heads * shape.nope),
            normal(shape.heads * shape.rope),
            3 * normal(shape.latent),
            normal(shape.rope),
            (positions[:, None] * frequencies).astype(np.float32),
        )

    def __getitem__(self, rows: Indices | slice) -> Tokens:
        return Tokens(*(np.ascontiguousarray(getattr(self, name)[rows]) for name in TOKEN_FIELDS))


@dataclass(frozen=True)
class Batch:
    positions: Indices
    slots: Indices
    sequences: Indices
    block_table: Indices


def attend(
    isa: str,
    layer: Layer,
    tokens: Tokens,
    batch: Batch,
    cache: Cache,
    arithmetic: str = "int16",
    **changed: Any,
) -> Floats:
    """Run the kernel, which writes to the cache; return ``[tokens, heads * value]``."""
    shape = layer.shape
    # One row of all projections, as a fused product gives it.
    parts = [tokens.query_nope, tokens.latent, tokens.query_rope, tokens.key_rope]
    fused = np.concatenate(parts, 1)
    widths = np.cumsum([0, *(part.shape[1] for part in parts)])
    starts = [fused.ctypes.data + 4 * int(width) for width in widths]
    stride = fused.shape[1]
    cosines, sines = np.cos(tokens.angles), np.sin(tokens.angles)
    out = np.full((len(fused), shape.heads * shape.value), np.nan, np.float32)
    key, value = layer.stored_key, layer.stored_value
    arrays = [np.ascontiguousarray(a, np.int64) for a in (
        batch.positions, batch.slots, batch.sequences, batch.block_table)]  # fmt: skip
    call = CAttention(
        shape.heads, shape.nope, shape.rope, shape.latent, shape.value,
        starts[0], starts[2], starts[1], starts[3], stride, stride, stride, stride,
        pointer(layer.norm), pointer(cosines), pointer(sines), layer.epsilon, layer.softmax_scale,
        ARITHMETICS.index(arithmetic), WEIGHTS.index(layer.kind),
        pointer(key.values), pointer(value.values), pointer(key.scales), pointer(value.scales),
        layer.block, len(fused), len(batch.block_table), batch.block_table.shape[1],
        *(pointer(array) for array in arrays), CACHES.index(cache.kind), pointer(cache.entries),
        pointer(cache.scales), cache.rows, shape.group, pointer(out),
    )  # fmt: skip
    for name, number in changed.items():
        setattr(call, name, number)
    found = library()
    function = found.functions.trtcoder_latent_attention
    function.restype = ctypes.c_char_p
    found.check(function(isa.encode(), ctypes.byref(call)))
    return out


def rotated(x: Doubles, angles: NDArray[np.floating[Any]]) -> Doubles:
    """Rotate interleaved pairs of ``x`` ``[..., rope]`` by ``[..., rope / 2]``."""
    cos, sin = np.cos(angles), np.sin(angles)
    out = np.empty_like(x)
    out[..., ::2] = x[..., ::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 1::2] * cos + x[..., ::2] * sin
    return out


def entries(layer: Layer, tokens: Tokens) -> Doubles:
    """Return what the tokens write to the cache, ``[tokens, width]``, before it is stored."""
    latent = tokens.latent.astype(np.float64)
    norm = np.sqrt((latent**2).mean(-1, keepdims=True) + layer.epsilon)
    return np.concatenate(
        [latent / norm * layer.norm, rotated(tokens.key_rope.astype(np.float64), tokens.angles)], 1
    )


def expected(layer: Layer, tokens: Tokens, batch: Batch, cache: Cache) -> Doubles:
    """Return the formula's outputs for a cache that holds the tokens' entries already."""
    shape = layer.shape

    def product(x: Doubles, weights: Doubles) -> Doubles:
        """``[heads, K]`` times ``[heads, K, N]``."""
        found: Doubles = np.einsum("hk,hkn->hn", x, weights)
        return found

    count = len(batch.positions)
    nope = tokens.query_nope.reshape(count, shape.heads, shape.nope).astype(np.float64)
    rope = tokens.query_rope.reshape(count, shape.heads, shape.rope).astype(np.float64)
    rope = rotated(rope, tokens.angles[:, None])
    out = np.empty((count, shape.heads, shape.value))
    for t in range(count):
        table = batch.block_table[batch.sequences[t]]
        logical = np.arange(len(table) * BLOCK)
        exists = (table[logical // BLOCK] >= 0) & (logical <= batch.positions[t])
        logical = logical[exists]
        keys = cache.values(table[logical // BLOCK] * BLOCK + logical % BLOCK)
        query = np.concatenate([product(nope[t], layer.key), rope[t]], 1)
        scores = query @ keys.T * layer.softmax_scale
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[t] = product(weights @ keys[:, : shape.latent], layer.value)
    return out.reshape(count, -1)


@dataclass(frozen=True)
class Text:
    """A sequence: all its tokens at their positions, and the blocks that they are stored in.

    Positions are ascending and may have gaps between blocks, whose columns in ``table`` are -1.
    """

    tokens: Tokens
    positions: Indices
    table: Indices

    @classmethod
    def random(
        cls, rng: np.random.Generator, shape: Shape, length: int, blocks: list[int], gap: int = 0
    ) -> Text:
        """Take blocks from the end of ``blocks``; leave out ``gap`` blocks somewhere."""
        count = -(-length // BLOCK)
        before = int(rng.integers(0, count + 1)) if gap else count
        logical = np.arange(count) + np.where(np.arange(count) < before, 0, gap)
        table = np.full(logical[-1] + 1, -1, np.int64)
        table[logical] = [blocks.pop() for _ in range(count)]
        positions = (logical[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[:length]
        return cls(Tokens.random(rng, shape, positions), positions, table)

    @property
    def slots(self) -> Indices:
        return self.table[self.positions // BLOCK] * BLOCK + self.positions % BLOCK


def pack(
    texts: Sequence[Text], parts: Sequence[tuple[int, int]], order: Indices | None = None
) -> tuple[Tokens, Batch]:
    """Return the tokens ``parts[i] = (start, stop)`` of each text as one batch, in any order."""
    width = max(len(text.table) for text in texts)
    table = np.full((len(texts), width), -1, np.int64)
    for row, text in zip(table, texts, strict=True):
        row[: len(text.table)] = text.table
    chosen = [slice(*part) for part in parts]
    pieces = [text.tokens[rows] for text, rows in zip(texts, chosen, strict=True)]

    def in_order(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
        whole = np.concatenate(list(arrays))
        return whole if order is None else whole[order]

    tokens = Tokens(*(in_order(getattr(piece, name) for piece in pieces) for name in TOKEN_FIELDS))
    pairs = list(zip(texts, chosen, strict=True))
    return tokens, Batch(
        in_order(text.positions[rows] for text, rows in pairs),
        in_order(text.slots[rows] for text, rows in pairs),
        in_order(np.full(stop - start, i) for i, (start, stop) in enumerate(parts)),
        table,
    )


def random_texts(
    rng: np.random.Generator, shape: Shape, lengths: list[int], gap: int = 0
) -> tuple[list[Text], int]:
    """Return texts whose blocks lie anywhere, and how many rows the cache needs."""
    count = sum(-(-length // BLOCK) for length in lengths) + 3
    blocks = rng.permutation(count).tolist()
    return [Text.random(rng, shape, length, blocks, gap) for length in lengths], count * BLOCK


def has_bits_of_its_own(isa: str, kind: str, weights: str, arithmetic: str = "int16") -> bool:
    """Tell whether an instruction set sums up in another order than the portable kernels."""
    in_floats = kind != "int8" or arithmetic != "int16"
    return isa == "amx" and (in_floats or weights == "bfloat16")


def run_all(
    isa: str, layer: Layer, texts: list[Text], cache: Cache, arithmetic: str = "int16"
) -> Floats:
    tokens, batch = pack(texts, [(0, len(text.positions)) for text in texts])
    return attend(isa, layer, tokens, batch, cache, arithmetic)
