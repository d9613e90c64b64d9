"""What a build would make and take, from the configuration alone: `trtcoder build --dry-run`.

Sizes are those of the declared graph, to the byte. Memory of a rank follows the usual split of
DeepSeek-V2: attention heads, dense widths and vocabulary by tensor parallelism (TP), experts by
expert parallelism (EP) or by TP; what has no heads or is small stays whole on every rank, and so
does the latent cache, which has none. Splits that a target's servers refuse are left out.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from trtcoder.calib.quantizers.rounding import round_to_nearest
from trtcoder.calib.storage.record import CLASSES
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.cores import available_cores
from trtcoder.export.targets.target import EnginePlan
from trtcoder.export.weights.data_file import layout
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.export.weights.writer import WORKERS_PER_CORE

GIB = 1 << 30
# A middling NVMe disk, bytes a second; what a build measures is in its own report.
READ_RATE, WRITE_RATE = 1.5e9, 0.5e9
# Splits that a server of up to eight GPUs can have.
SPLITS = ((1, 1), (2, 1), (2, 2), (4, 1), (4, 4), (8, 1), (8, 2), (8, 4), (8, 8))
CONTEXT = 131_072
# Classes that are stored as they are, but for W_UK and W_UV where a recipe says otherwise.
EXACT = ("absorbed", "router", "norms", "activations")
# Tensors that TP leaves whole: their outputs are latents, without heads.
_SMALL = ("router", "norms", "activations")
_WHOLE = ("q_kv_a_proj", "q_a_kv_a_proj")


@runtime_checkable
class ServedBySplit(Protocol):
    """A plan whose engine is loaded by servers that take some splits and refuse others."""

    def allows(self, tp: int, ep: int) -> bool:
        """Return whether servers load it on ``tp`` GPUs with the experts in ``ep`` shares."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Bytes on the fullest of ``tp`` ranks, with the experts in ``ep`` shares."""

    tp: int
    ep: int
    weights: int
    cache: int

    @property
    def nbytes(self) -> int:
        """Weights, and the latent cache of one context of 128K tokens."""
        return self.weights + self.cache


@dataclass(frozen=True, slots=True)
class Sizing:
    """The estimate.

    Attributes:
        read: bytes of the checkpoint.
        written: bytes of the files of weights.
        compiled: bytes of what is compiled from them, beside them.
        classes: bytes by tensor class.
        values: weights by tensor class.
        memory: largest resident memory that converting takes, in bytes; roughly.
        seconds: time to convert on this machine, the disks' speed assumed.
        ranks: memory a rank.
    """

    read: int
    written: int
    compiled: int
    classes: dict[str, int]
    values: dict[str, int]
    memory: int
    seconds: float
    ranks: tuple[Rank, ...]

    @property
    def engine(self) -> int:
        """Bytes of weights, and of what is compiled from them."""
        return self.written + self.compiled

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "checkpoint_bytes": self.read,
            "engine_bytes": self.engine,
            "classes": {
                kind: {"bytes": size, "values": self.values[kind]}
                for kind, size in self.classes.items()
            },
            "build_memory_bytes": self.memory,
            "build_seconds": round(self.seconds, 1),
            "assumed": {"read_bytes_per_second": READ_RATE, "write_bytes_per_second": WRITE_RATE},
            "context": CONTEXT,
            "ranks": [
                {"tp": r.tp, "ep": r.ep, "weights_bytes": r.weights, "cache_bytes": r.cache}
                for r in self.ranks
            ],
        }

    def render(self) -> str:
        """Return it as plain text."""
        unit, name = (GIB, "GiB") if self.written >= GIB else (1 << 20, "MiB")
        lines = [
            f"reads {self.read / unit:,.1f} {name}, writes {self.engine / unit:,.1f} {name} in "
            f"about {_time(self.seconds)} (disks of {READ_RATE / 1e9:.1f} and "
            f"{WRITE_RATE / 1e9:.1f} GB/s assumed), {self.memory / GIB:.1f} GiB of memory",
            "verifying reads the checkpoint once more, a layer at a time",
            *self._of_compiled(),
            "",
            f"{'class':<18}{'weights':>18}{name:>10}{'bits a weight':>16}",
        ]
        for kind, size in self.classes.items():
            values = self.values[kind]
            lines.append(f"{kind:<18}{values:>18,}{size / unit:>10.2f}{8 * size / values:>16.2f}")
        values = sum(self.values.values())
        bits = 8 * self.written / values
        lines += [
            f"{'all':<18}{values:>18,}{self.written / unit:>10.2f}{bits:>16.2f}",
            "",
            f"a rank, {name}, with the cache of one context of {CONTEXT:,} tokens:",
            f"{'TP':>4}{'EP':>4}{'weights':>12}{'cache':>12}{'sum':>12}",
        ]
        for rank in self.ranks:
            lines.append(
                f"{rank.tp:>4}{rank.ep:>4}{rank.weights / unit:>12.2f}{rank.cache / unit:>12.2f}"
                f"{rank.nbytes / unit:>12.2f}"
            )
        return "\n".join(lines)

    def _of_compiled(self) -> list[str]:
        if not self.compiled:
            return []
        return [
            f"{self.compiled / GIB:,.2f} GiB of it are compiled plans, as large as their weights, "
            "which stay beside them for `trtcoder verify`; compiling takes 7 GB of memory for 2 GB"
        ]


def estimate(plan: EnginePlan) -> Sizing:
    """Return the sizing of an engine that has been planned."""
    weights, config = plan.weights, plan.checkpoint.config
    _, written = layout(weights.declared.values())
    classes, values = _classes(weights)
    read = plan.checkpoint.nbytes
    cores = available_cores()
    compute = sum(step.values for step in weights.steps) * _seconds_per_value() / cores
    largest = max(step.values for step in weights.steps)
    cache = CONTEXT * plan.cache_bytes
    return Sizing(
        read=read,
        written=written,
        compiled=plan.compiled_bytes,
        classes=classes,
        values=values,
        # Each worker holds what it read (bf16) and what it makes of it; the program itself 0.4 GiB.
        memory=int(0.4 * GIB) + WORKERS_PER_CORE * cores * 4 * largest,
        seconds=max(read / READ_RATE + written / WRITE_RATE, compute),
        ranks=tuple(
            Rank(tp, ep, _rank_bytes(plan, tp, ep), cache)
            for tp, ep in SPLITS
            if config.num_attention_heads % tp == 0 and config.n_routed_experts % ep == 0
            if not isinstance(plan, ServedBySplit) or plan.allows(tp, ep)
        ),
    )


def _classes(plan: WeightPlan) -> tuple[dict[str, int], dict[str, int]]:
    """Return bytes and number of weights by class."""
    sizes: Counter[str] = Counter()
    values: Counter[str] = Counter()
    rounded = {stored.kind for stored in plan.matrices.values()}
    for weight in plan.declared.values():
        sizes[weight.kind] += weight.nbytes
        if weight.kind in EXACT and weight.kind not in rounded:
            values[weight.kind] += math.prod(weight.shape)
    for stored in plan.matrices.values():
        values[stored.kind] += stored.source.rows * stored.source.width
    ordered = [kind for kind in CLASSES if kind in sizes]
    return {kind: sizes[kind] for kind in ordered}, {kind: values[kind] for kind in ordered}


def _rank_bytes(plan: EnginePlan, tp: int, ep: int) -> int:
    """Return the bytes of weights on the fullest of ``tp`` ranks.

    Each of them has one of ``ep`` shares of the experts, and of these the ``tp / ep``-th part of
    their inner width, in whole blocks.
    """
    total = 0.0
    cut = tp // ep
    downs = (m for m in plan.weights.matrices.values() if m.kind == "experts_down")
    inner = next((matrix.source.width for matrix in downs), 0)
    for weight in plan.weights.declared.values():
        if weight.kind in ("router", "norms", "activations") or any(
            part in weight.name for part in _WHOLE
        ):
            total += weight.nbytes
        elif weight.kind in ("experts_gate_up", "experts_down"):
            scheme = plan.recipe.scheme(weight.kind)
            block = 1
            if isinstance(scheme, Scheme) and not scheme.is_float:
                block = scheme.block_size
            part = -(-inner // cut)
            whole, share = -(-inner // block), -(-part // block)
            total += weight.nbytes / ep * share / whole
        else:
            total += weight.nbytes / tp
    return int(total)


def _seconds_per_value() -> float:
    """Return how long this machine takes to round one weight, on one core."""
    bits = np.full((512, 2048), 0x3C00, np.uint16)
    scheme = Scheme(4, 128)
    round_to_nearest(bits, scheme, "")
    started = time.perf_counter()
    round_to_nearest(bits, scheme, "")
    return (time.perf_counter() - started) / bits.size


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
