"""Graph layers whose weights a `Scheme` stores: linear, embedding, mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from trtcoder.calib.storage.record import TensorRecord
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import CONTRIB, Converted, Dim, GraphBuilder, Part, StoredMatrix
from trtcoder.export.graph.stored import Arrays, convert, declare, names
from trtcoder.export.weights.matrix import Matrix

# The attributes of both kernels of fused experts; gate and up are interleaved row by row.
_SWIGLU: dict[str, Any] = {
    "activation_type": "swiglu",
    "swiglu_fusion": 1,
    "activation_alpha": 1.0,
    "activation_beta": 0.0,
}


@dataclass(frozen=True, slots=True)
class Expert:
    """One routed expert: gate and up ``[I, H]``, down ``[H, I]``."""

    gate: Matrix
    up: Matrix
    down: Matrix


def linear(
    b: GraphBuilder,
    name: str,
    kind: str,
    x: ir.Value,
    source: Matrix,
    scheme: Scheme,
    accuracy_level: int,
    rows: str = "tokens",
    site: str | None = None,
) -> ir.Value:
    """Multiply ``x`` ``[rows, K]`` with the transpose of ``source`` ``[N, K]``: ``[rows, N]``.

    ``kind`` is the matrix' class, one of `trtcoder.calib.storage.record.CLASSES`; ``site`` is the
    name of the activation where ``x`` is only some rows of it.
    """
    out, width = source.rows, source.width
    if not scheme.is_float and width % scheme.block_size:
        b.pad(name, width, scheme.block_size)
    weights = _matrix(b, f"{name}/weight", kind, site or str(x.name), source, scheme)
    if scheme.is_float:
        return b.op("Gemm", name, [x, *weights], [rows, out], transB=1)
    return b.op(
        "MatMulNBits",
        name,
        [x, *weights],
        [rows, out],
        domain=CONTRIB,
        N=out,
        K=width,
        bits=scheme.bits,
        block_size=scheme.block_size,
        accuracy_level=accuracy_level,
    )


def embedding(
    b: GraphBuilder, name: str, ids: ir.Value, source: Matrix, scheme: Scheme
) -> ir.Value:
    """Look up rows of ``source`` ``[V, H]``: ``[tokens, H]``."""
    shape: list[Dim] = ["tokens", source.width]
    if scheme.is_float:
        (table,) = _matrix(b, f"{name}/weight", "embedding", "", source, scheme)
        return b.op("Gather", name, [table, ids], shape, axis=0)
    if source.width % scheme.block_size:
        raise BuildError(
            f"{source.label}: width {source.width} does not divide by block {scheme.block_size}; "
            "use a smaller --block-size"
        )
    codes, scales, *zeros = _matrix(b, f"{name}/weight", "embedding", "", source, scheme, flat=True)
    return b.op(
        "GatherBlockQuantized",
        name,
        [codes, ids, scales, *zeros],
        shape,
        domain=CONTRIB,
        bits=scheme.bits,
        block_size=scheme.block_size,
        gather_axis=0,
        quantize_axis=1,
    )


def mixture_of_experts(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    selection: ir.Value,
    mixing: ir.Value,
    experts: Sequence[Expert],
    top_k: int,
    gate_up: Scheme,
    down: Scheme,
    accuracy_level: int,
) -> ir.Value:
    """Run the ``top_k`` experts of each token and add their outputs: ``[tokens, H]``.

    ``selection`` and ``mixing`` are ``[tokens, E]``: experts are chosen by the first and weighed
    by the second. One fused node; gate and up are interleaved row by row, as its CPU kernel asks.
    ``gate_up`` and ``down`` may differ in bits and zero points.
    """
    hidden = experts[0].gate.width
    inner = experts[0].gate.rows
    if gate_up.is_float != down.is_float or gate_up.block_size != down.block_size:
        raise BuildError(
            f"{name}: gate and up are {gate_up}, down is {down}; the kernel wants both quantized "
            "in blocks of one size, or neither"
        )
    if not gate_up.is_float and hidden % gate_up.block_size:
        raise BuildError(
            f"{experts[0].gate.label}: width {hidden} does not divide by block "
            f"{gate_up.block_size}; use a smaller --block-size"
        )
    # The kernel takes whole blocks only: pad the inner width with units that add nothing.
    padded = inner if down.is_float else down.blocks(inner) * down.block_size
    if padded != inner:
        b.pad(name, inner, down.block_size)
    stack = [len(experts)]
    fc1 = declare(
        b, f"{name}/gate_up", "experts_gate_up", [*stack, 2 * padded], hidden, gate_up, flat=True
    )
    fc2 = declare(b, f"{name}/down", "experts_down", [*stack, hidden], padded, down, flat=True)
    for index, expert in enumerate(experts):
        _expert_step(b, name, str(x.name), index, expert, padded, gate_up, down)
    if gate_up.is_float:
        return float_experts(b, name, x, selection, fc1[0], fc2[0], hidden, top_k)
    common = {**_SWIGLU, "k": top_k}
    inputs = [x, selection, fc1[0], fc1[1], None, fc2[0], fc2[1], None, None, None, None]
    inputs += [None if gate_up.symmetric else fc1[2], None if down.symmetric else fc2[2]]
    if gate_up.bits != down.bits:
        common["fc2_expert_weight_bits"] = down.bits
    return b.op(
        "QMoE",
        name,
        [*inputs, None, mixing],
        ["tokens", hidden],
        domain=CONTRIB,
        expert_weight_bits=gate_up.bits,
        block_size=gate_up.block_size,
        accuracy_level=accuracy_level,
        # Set, it would also divide the mixing weights that it is given by their sum.
        normalize_routing_weights=0,
        **common,
    )


def float_experts(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    selection: ir.Value,
    gate_up: ir.Value,
    down: ir.Value,
    hidden: int,
    top_k: int,
) -> ir.Value:
    """Run experts whose weights are float32, ``[E, 2 I, H]`` and ``[E, H, I]``: ``[tokens, H]``.

    The node has no input for the mixing weights. It takes the softmax over the chosen logits, which
    is the chosen probabilities over their sum: the caller multiplies with that sum.
    """
    return b.op(
        "MoE",
        name,
        [x, selection, gate_up, None, down],
        ["tokens", hidden],
        domain=CONTRIB,
        k=top_k,
        normalize_routing_weights=1,
        **_SWIGLU,
    )


def expert_site(name: str, index: int) -> str:
    """Return the site of what an expert's down projection multiplies."""
    return f"{name}/product[{index}]"


def _matrix(
    b: GraphBuilder,
    name: str,
    kind: str,
    site: str,
    source: Matrix,
    scheme: Scheme,
    flat: bool = False,
) -> list[ir.Value]:
    """Declare the tensors that store ``source`` and the steps that fill them."""
    values = declare(b, name, kind, [source.rows], source.width, scheme, flat)
    b.matrices[name] = StoredMatrix(source, site, kind, scheme)
    for start, stop in source.chunks():

        def produce(start: int = start, stop: int = stop) -> Converted:
            arrays, record = convert(b, name, start, stop, flat)
            keys = names(name, scheme)
            parts = [Part(key, start, array) for key, array in zip(keys, arrays, strict=True)]
            return Converted(parts, [record])

        b.step(f"{name}[{start}:{stop}]", source.tensors, (stop - start) * source.width, produce)
    return values


def _expert_step(
    b: GraphBuilder,
    name: str,
    site: str,
    index: int,
    expert: Expert,
    padded: int,
    gate_up: Scheme,
    down: Scheme,
) -> None:
    inner = expert.gate.rows
    gate_name, up_name, down_name = (f"{name}/{role}[{index}]" for role in ("gate", "up", "down"))
    for key, source in ((gate_name, expert.gate), (up_name, expert.up)):
        b.matrices[key] = StoredMatrix(source, site, "experts_gate_up", gate_up)
    b.matrices[down_name] = StoredMatrix(
        expert.down, expert_site(name, index), "experts_down", down
    )

    def produce() -> Converted:
        records: list[TensorRecord] = []
        found: list[Arrays] = []
        for key in (gate_name, up_name, down_name):
            arrays, record = convert(b, key, flat=True)
            found.append(arrays)
            records.append(record)
        b.quantizer.release(down_name)
        gate_arrays, up_arrays, down_arrays = found
        parts = []
        for key, gate, up in zip(
            names(f"{name}/gate_up", gate_up), gate_arrays, up_arrays, strict=True
        ):
            rows = np.zeros((1, 2 * padded, gate.shape[1]), gate.dtype)
            rows[0, 0 : 2 * inner : 2] = gate
            rows[0, 1 : 2 * inner : 2] = up
            parts.append(Part(key, index, rows))
        keys = names(f"{name}/down", down)
        parts += [Part(key, index, a[None]) for key, a in zip(keys, down_arrays, strict=True)]
        return Converted(parts, records)

    tensors = expert.gate.tensors + expert.up.tensors + expert.down.tensors
    b.step(f"{name}/experts.{index}", tensors, 3 * inner * expert.gate.width, produce)
