"""Mixtures of experts: the kernel as a NumPy function, and what it must compute."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tests.plugins.kernels import (
    CMatrix,
    Floats,
    Weights,
    aligned,
    library,
    pointer,
    rounded,
    roundings,
)
from trtcoder.calib.storage.blocks import QuantizedMatrix
from trtcoder.calib.storage.panels import alternating
from trtcoder.calib.storage.scheme import Scheme


class CMlp(ctypes.Structure):
    _fields_ = [("gate_up", CMatrix), ("down", CMatrix)]


class CRouting(ctypes.Structure):
    _fields_ = [
        ("rows", ctypes.c_void_p),
        ("experts", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("top_groups", ctypes.c_int64),
        ("is_bfloat", ctypes.c_int32),
        ("normalize", ctypes.c_int32),
        ("scale", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Mlp:
    gate: Weights
    up: Weights
    down: Weights

    @classmethod
    def random(
        cls, rng: np.random.Generator, hidden: int, inner: int, gate_up: Scheme, down: Scheme
    ) -> Mlp:
        return cls(
            Weights.random(rng, inner, hidden, gate_up),
            Weights.random(rng, inner, hidden, gate_up),
            Weights.random(rng, hidden, inner, down),
        )

    def products(self, x: Floats) -> NDArray[np.float64]:
        """Return silu(gate) * up of rounded activations, before they are rounded again."""
        inputs = rounded(x, self.gate.scheme)
        gate, up = (inputs @ w.values.astype(np.float64).T for w in (self.gate, self.up))
        with np.errstate(over="ignore"):
            found: NDArray[np.float64] = gate / (1 + np.exp(-gate)) * up
        return found

    def __call__(self, x: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the outputs and how far float32 may be off: by one flipped rounding each."""
        down, scheme = self.down.values.astype(np.float64), self.down.scheme
        if scheme.is_float:
            return self._exactly(x, down)
        products = self.products(x).astype(np.float32)
        block = scheme.block_size
        padded = np.pad(np.abs(products), ((0, 0), (0, -products.shape[1] % block)))
        steps = padded.reshape(len(x), -1, block).max(-1).repeat(block, -1)[:, : down.shape[1]]
        inner = rounded(products, scheme)
        flips = (steps[:, None, :] / 127 * np.abs(down)[None]).max(-1)
        return inner @ down.T, 1e-5 * np.abs(inner) @ np.abs(down).T + 1.01 * flips

    def _exactly(
        self, x: Floats, down: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the outputs where nothing is rounded but sums, and how far those may be off."""
        products, step = self.products(x), 2.0**-24
        inputs = np.abs(x.astype(np.float64))
        gate, up = (inputs @ np.abs(w.values.astype(np.float64)).T for w in (self.gate, self.up))
        # The slope of silu is below 1.1, and |silu(g)| at most |g|.
        off = 2.2 * gate * up * roundings(self.gate.scheme, x.shape[1]) * step
        off += np.abs(products) * 1e-6
        own = np.abs(products) @ np.abs(down).T * roundings(self.down.scheme, down.shape[1]) * step
        return products @ down.T, off @ np.abs(down).T + own + 1e-30


@dataclass(frozen=True)
class Routing:
    rows: Floats
    top_k: int
    groups: int = 1
    top_groups: int = 1
    normalize: bool = False
    scale: float = 1.0

    def __call__(self, logits: Floats) -> list[dict[int, float]]:
        """Return each token's experts and their weights."""
        count = logits.shape[1]
        chosen = []
        for row in logits.astype(np.float64):
            best = row.reshape(self.groups, -1).max(1)
            groups = np.argsort(-best, kind="stable")[: self.top_groups]
            allowed = np.isin(np.arange(count) // (count // self.groups), groups)
            order = np.argsort(np.where(allowed, -row, np.inf), kind="stable")[: self.top_k]
            probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            total = probabilities[order].sum() if self.normalize else 1.0
            chosen.append({int(e): probabilities[e] / total * self.scale for e in order})
        return chosen


@dataclass(frozen=True)
class FeedForward:
    """A layer: routed experts, a shared MLP, or both."""

    experts: list[Mlp]
    routing: Routing | None
    shared: Mlp | None

    def __call__(
        self, isa: str, x: Floats, *, with_logits: bool = True, is_bfloat: bool = False
    ) -> tuple[Floats, Floats]:
        x = np.ascontiguousarray(x)
        tokens, hidden = x.shape
        y = np.full((tokens, hidden), np.nan, np.float32)
        logits = np.full((tokens, len(self.experts)), np.nan, np.float32)
        found = library()
        function = found.functions.trtcoder_feed_forward
        function.restype = ctypes.c_char_p
        keep: list[object] = []
        routing = None
        if self.routing is not None:
            rows = self.routing.rows
            stored = rows.view(np.uint32).__rshift__(16).astype(np.uint16) if is_bfloat else rows
            keep.append(stored)
            routing = CRouting(
                pointer(stored),
                len(rows),
                self.routing.top_k,
                self.routing.groups,
                self.routing.top_groups,
                is_bfloat,
                self.routing.normalize,
                self.routing.scale,
            )
        found.check(
            function(
                isa.encode(),
                ctypes.c_void_p(pointer(x)),
                ctypes.c_int64(tokens),
                _reference(_first([self.shared], keep) if self.shared else None),
                _reference(_first(self.experts, keep) if self.experts else None),
                _reference(routing),
                ctypes.c_void_p(pointer(y)),
                ctypes.c_void_p(pointer(logits) if with_logits else None),
            )
        )
        return y, logits

    def expected(
        self, x: Floats, logits: Floats
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the outputs, given the router's logits, and the bound on their error."""
        y, bound = np.zeros(x.shape), np.full(x.shape, 1e-30)
        if self.shared is not None:
            y, bound = self.shared(x)
        if self.routing is not None:
            for t, experts in enumerate(self.routing(logits)):
                for e, weight in experts.items():
                    value, error = self.experts[e](x[t : t + 1])
                    y[t] += weight * value[0]
                    bound[t] += weight * error[0] + 1e-5 * np.abs(weight * value[0])
        return y, bound


def _reference(structure: ctypes.Structure | None) -> object:
    return None if structure is None else ctypes.byref(structure)


def behind(mlps: list[Mlp]) -> tuple[QuantizedMatrix, QuantizedMatrix]:
    """Put MLPs behind each other in memory, as `ExpertStack` has them: gate and up, and down."""
    gate_up = _joined([_alternating(mlp.gate.panels, mlp.up.panels) for mlp in mlps])
    return gate_up, _joined([mlp.down.panels for mlp in mlps])


def _alternating(first: QuantizedMatrix, second: QuantizedMatrix) -> QuantizedMatrix:
    zeros = None
    if first.zero_points is not None and second.zero_points is not None:
        zeros = alternating(first.zero_points, second.zero_points)
    packed, scales = (
        alternating(getattr(first, name), getattr(second, name)) for name in ("packed", "scales")
    )
    return QuantizedMatrix(packed, scales, zeros)


def _first(mlps: list[Mlp], keep: list[object]) -> CMlp:
    """Return the first of MLPs that lie behind each other, in memory that ``keep`` holds."""
    gate_up, down = behind(mlps)
    keep += [gate_up, down]
    first = mlps[0]
    views = replace(first.gate, panels=gate_up).view, replace(first.down, panels=down).view
    views[0].rows = 2 * 16 * len(first.gate.panels.packed)
    return CMlp(*views)


def _joined(parts: list[QuantizedMatrix]) -> QuantizedMatrix:
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    return QuantizedMatrix(
        aligned(np.concatenate([part.packed for part in parts])),
        aligned(np.concatenate([part.scales for part in parts])),
        aligned(np.concatenate(zeros)) if zeros else None,
    )
