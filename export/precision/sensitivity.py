"""How much each class of tensors loses by each way to store it, in one pass over a checkpoint.

A variant stores one class in int4, rounded to nearest, and leaves all else as it is. All variants
go through a layer together, so each layer is read once; at the end their logits are held against
those of the model itself. The KL of the other schemes is extrapolated by the squared error of the
class's weights: to second order, KL is proportional to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.budget import Option
from trtcoder.calib.quantizers.rounding import round_to_nearest
from trtcoder.calib.storage.blocks import dequantize
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.calib.text.examples import EncodedText
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cores import library_threads
from trtcoder.export.calibration.calibrate import EMBEDDING
from trtcoder.export.calibration.layer_module import LayerModule
from trtcoder.export.parity.logits import kl_divergence
from trtcoder.export.reference.model import SequenceState, TransformersReference
from trtcoder.export.weights.matrix import Matrix
from trtcoder.export.weights.plan import StoredMatrix

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
# Rows of logits that are compared at once.
_TOKENS = 64
HEAD = "lm_head/weight"
# What variants are stored as: far enough from exact to be measured, near enough to extrapolate.
PROBE = Scheme(4, 32)
_PROBED = Scheme(32)  # stands for `PROBE` in sums, beside a candidate that may be the same


def measure(
    checkpoint: Checkpoint,
    matrices: Mapping[str, StoredMatrix],
    sequences: Sequence[EncodedText],
    candidates: Mapping[str, Sequence[Scheme]],
    on_layer: Callable[[int, str], None] = lambda amount, item: None,
) -> dict[str, list[Option]]:
    """Return, for each class of ``candidates``, what each scheme costs it.

    Args:
        checkpoint: the weights.
        matrices: the graph's matrices, by name, with their classes.
        sequences: text that is not held out.
        candidates: integer schemes by class.
        on_layer: told of each layer, and of the head.
    """
    import torch

    by_place = _by_place(matrices)
    reference = TransformersReference(checkpoint)
    errors = _Errors(candidates)
    with library_threads(), torch.inference_mode():
        exact = [reference.embed(np.array(sequence.ids)) for sequence in sequences]
        streams = {kind: [state.stream for state in exact] for kind in candidates}
        if "embedding" in candidates:
            streams["embedding"] = _embedded(matrices[EMBEDDING], sequences)
            errors.add("embedding", matrices[EMBEDDING].source)
        for layer in range(checkpoint.config.num_hidden_layers):
            module = LayerModule(reference.load_layer(layer), layer)
            for kind in candidates:
                here = by_place.get((layer, kind), [])
                for matrix in here:
                    module.assign(matrix.source, 0, errors.add(kind, matrix.source))
                streams[kind] = _forward(reference, module, exact, streams[kind])
                for matrix in here:
                    module.assign(matrix.source, 0, matrix.source.read())
            after = _forward(reference, module, exact, [state.stream for state in exact])
            for state, stream in zip(exact, after, strict=True):
                state.stream = stream
            on_layer(1, f"layer {layer}")
        head = matrices[HEAD].source.read()
        wanted = _final(reference, [state.stream for state in exact])
        kl = {}
        for kind, found in streams.items():
            stored = errors.add(kind, matrices[HEAD].source) if kind == "lm_head" else head
            kl[kind] = _kl(wanted, head, _final(reference, found), stored)
        on_layer(1, "head")
    return {
        kind: [
            Option(
                scheme,
                stored_bytes(matrices, kind, scheme),
                kl[kind] * errors.ratio(kind, scheme),
            )
            for scheme in schemes
        ]
        for kind, schemes in candidates.items()
    }


class _Errors:
    """Sums of squared errors of the weights, by class and scheme."""

    def __init__(self, candidates: Mapping[str, Sequence[Scheme]]) -> None:
        self._candidates = candidates
        self._sums: defaultdict[tuple[str, Scheme], float] = defaultdict(float)

    def add(self, kind: str, source: Matrix) -> Floats:
        """Count a matrix; return what it comes back as from `PROBE`."""
        bits = source.stored(0, source.rows)
        for scheme in self._candidates[kind]:
            _, loss = round_to_nearest(bits, scheme, source.label)
            self._sums[kind, scheme] += loss.squared_error
        matrix, loss = round_to_nearest(bits, PROBE, source.label)
        self._sums[kind, _PROBED] += loss.squared_error
        return dequantize(matrix, PROBE, source.width)

    def ratio(self, kind: str, scheme: Scheme) -> float:
        """Return the error of a scheme over that of `PROBE`."""
        probed = self._sums[kind, _PROBED]
        return self._sums[kind, scheme] / probed if probed else 0.0


def _by_place(matrices: Mapping[str, StoredMatrix]) -> dict[tuple[int, str], list[StoredMatrix]]:
    found: dict[tuple[int, str], list[StoredMatrix]] = {}
    for name, stored in matrices.items():
        prefix, _, rest = name.partition("/")
        if prefix.startswith("layers.") and rest:
            place = int(prefix.removeprefix("layers.")), stored.kind
            found.setdefault(place, []).append(stored)
    return found


def stored_bytes(matrices: Mapping[str, StoredMatrix], kind: str, scheme: Scheme) -> int:
    """Return what all matrices of a class take in one scheme."""
    bits = 0.0
    for stored in matrices.values():
        if stored.kind != kind:
            continue
        rows, width = stored.source.rows, stored.source.width
        if kind == "experts_gate_up" and not scheme.is_float:
            # The kernel takes whole blocks of the experts' inner width, which these rows make.
            rows = scheme.blocks(rows) * scheme.block_size
        bits += rows * width * scheme.bits_per_weight(width)
    return round(bits / 8)


def _forward(
    reference: TransformersReference,
    module: LayerModule,
    states: Sequence[SequenceState],
    streams: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    found = []
    for state, stream in zip(states, streams, strict=True):
        kept, state.stream = state.stream, stream
        found.append(reference.forward(module.module, state))
        state.stream = kept
    return found


def _embedded(matrix: StoredMatrix, sequences: Sequence[EncodedText]) -> list[torch.Tensor]:
    """Return the sequences' rows of the embedding as `PROBE` stores them."""
    import torch

    found = []
    for sequence in sequences:
        ids, places = np.unique(np.array(sequence.ids), return_inverse=True)
        rows = np.concatenate([matrix.source.stored(int(i), int(i) + 1) for i in ids])
        stored, _ = round_to_nearest(rows, PROBE, matrix.source.label)
        restored = dequantize(stored, PROBE, matrix.source.width)
        found.append(torch.from_numpy(restored[places])[None])
    return found


def _final(reference: TransformersReference, streams: Sequence[torch.Tensor]) -> Floats:
    import torch

    found: Floats = reference.final_norm(torch.cat([stream[0] for stream in streams])).numpy()
    return found


def _kl(wanted: Floats, head: Floats, found: Floats, stored: Floats) -> float:
    """Return the mean KL in nats of the logits ``found @ stored.T``, against the exact ones."""
    total = 0.0
    for start in range(0, len(wanted), _TOKENS):
        rows = slice(start, start + _TOKENS)
        total += float(kl_divergence(wanted[rows] @ head.T, found[rows] @ stored.T).sum())
    return total / len(wanted)
