"""How much each class of tensors loses by each way to store it, in one pass over a checkpoint.

A variant stores one class by one scheme, rounded to nearest, and leaves all else as it is. All
variants go through a layer together, so each layer is read once; at the end their logits are held
against those of the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.blocks import dequantize
from trtcoder.calib.budget import Option
from trtcoder.calib.rounding import round_to_nearest
from trtcoder.calib.scheme import Scheme
from trtcoder.calib.text import EncodedText
from trtcoder.checkpoint import Checkpoint
from trtcoder.export.builder import StoredMatrix
from trtcoder.export.calibrate import EMBEDDING
from trtcoder.export.layer_module import LayerModule
from trtcoder.export.parity import kl_divergence
from trtcoder.export.reference import SequenceState, TransformersReference

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Variant = tuple[str, Scheme]
# Rows of logits that are compared at once.
_TOKENS = 64
HEAD = "lm_head/weight"


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
        sequences: text that is neither calibrated with nor held out.
        candidates: schemes by class; float32 ones cost nothing and are not run.
        on_layer: told of each layer, and of the head.
    """
    import torch

    variants: list[Variant] = [
        (kind, scheme)
        for kind, schemes in candidates.items()
        for scheme in schemes
        if not scheme.is_float
    ]
    by_place = _by_place(matrices)
    reference = TransformersReference(checkpoint)
    with torch.inference_mode():
        exact = [reference.embed(np.array(sequence.ids)) for sequence in sequences]
        streams = {variant: [state.stream for state in exact] for variant in variants}
        for variant in variants:
            if variant[0] == "embedding":
                streams[variant] = _embedded(matrices[EMBEDDING], variant[1], sequences)
        for layer in range(checkpoint.config.num_hidden_layers):
            module = LayerModule(reference.load_layer(layer), layer)
            for variant in variants:
                here = by_place.get((layer, variant[0]), [])
                # Up to the first layer that it changes, a variant is the model itself.
                if not here and streams[variant][0] is exact[0].stream:
                    continue
                _store(module, here, variant[1])
                streams[variant] = _forward(reference, module, exact, streams[variant])
                _restore(module, here)
            after = _forward(reference, module, exact, [state.stream for state in exact])
            for variant in variants:
                if streams[variant][0] is exact[0].stream:
                    streams[variant] = after
            for state, stream in zip(exact, after, strict=True):
                state.stream = stream
            on_layer(1, f"layer {layer}")
        final = reference.final_norm(torch.cat([state.stream[0] for state in exact])).numpy()
        kl = {
            variant: _kl(
                checkpoint,
                matrices[HEAD],
                final,
                reference.final_norm(torch.cat([each[0] for each in streams[variant]])).numpy(),
                variant[1] if variant[0] == "lm_head" else None,
            )
            for variant in variants
        }
        on_layer(1, "head")
    return {
        kind: [
            Option(scheme, _bytes(matrices, kind, scheme), kl.get((kind, scheme), 0.0))
            for scheme in schemes
        ]
        for kind, schemes in candidates.items()
    }


def _by_place(matrices: Mapping[str, StoredMatrix]) -> dict[tuple[int, str], list[StoredMatrix]]:
    found: dict[tuple[int, str], list[StoredMatrix]] = {}
    for name, stored in matrices.items():
        prefix, _, rest = name.partition("/")
        if prefix.startswith("layers.") and rest:
            place = int(prefix.removeprefix("layers.")), stored.kind
            found.setdefault(place, []).append(stored)
    return found


def _bytes(matrices: Mapping[str, StoredMatrix], kind: str, scheme: Scheme) -> int:
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


def _stored(values: Floats, scheme: Scheme, where: str) -> Floats:
    matrix, _ = round_to_nearest(values, scheme, where)
    return dequantize(matrix, scheme, values.shape[1])


def _store(module: LayerModule, matrices: Sequence[StoredMatrix], scheme: Scheme) -> None:
    for matrix in matrices:
        module.assign(matrix.source, 0, _stored(matrix.source.read(), scheme, matrix.source.label))


def _restore(module: LayerModule, matrices: Sequence[StoredMatrix]) -> None:
    for matrix in matrices:
        module.assign(matrix.source, 0, matrix.source.read())


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


def _embedded(
    matrix: StoredMatrix, scheme: Scheme, sequences: Sequence[EncodedText]
) -> list[torch.Tensor]:
    import torch

    found = []
    for sequence in sequences:
        ids, places = np.unique(np.array(sequence.ids), return_inverse=True)
        rows = np.concatenate([matrix.source.read(int(i), int(i) + 1) for i in ids])
        stored = _stored(rows, scheme, matrix.source.label)
        found.append(torch.from_numpy(stored[places])[None])
    return found


def _kl(
    checkpoint: Checkpoint,
    head: StoredMatrix,
    exact: Floats,
    changed: Floats,
    scheme: Scheme | None,
) -> float:
    """Return the mean KL in nats of the logits of ``changed`` against those of ``exact``."""
    weights = head.source.read()
    stored = weights if scheme is None else _stored(weights, scheme, head.source.label)
    total = 0.0
    for start in range(0, len(exact), _TOKENS):
        rows = slice(start, start + _TOKENS)
        total += float(kl_divergence(exact[rows] @ weights.T, changed[rows] @ stored.T).sum())
    return total / len(exact)
