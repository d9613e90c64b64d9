"""Graph layers whose weights a `Scheme` stores: linear, embedding, mixture of experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.calib.rtn import QuantizedMatrix, quantize
from trtcoder.calib.scheme import Scheme
from trtcoder.errors import BuildError
from trtcoder.export.builder import CONTRIB, Dim, GraphBuilder, Part, Step
from trtcoder.export.sources import Matrix

FLOAT, UINT8 = ir.DataType.FLOAT, ir.DataType.UINT8


@dataclass(frozen=True, slots=True)
class Expert:
    """One routed expert: gate and up ``[I, H]``, down ``[H, I]``."""

    gate: Matrix
    up: Matrix
    down: Matrix


def parameter(
    b: GraphBuilder,
    name: str,
    shape: Sequence[int],
    tensors: tuple[str, ...],
    read: Callable[[], NDArray[np.float32]],
) -> ir.Value:
    """Declare a float32 weight that ``read`` returns whole."""
    value = b.weight(name, FLOAT, shape)
    size = int(np.prod(shape))
    b.steps.append(Step(name, tensors, size, lambda: [Part(name, 0, read())]))
    return value


def linear(
    b: GraphBuilder,
    name: str,
    x: ir.Value,
    source: Matrix,
    scheme: Scheme,
    accuracy_level: int,
    rows: str = "tokens",
) -> ir.Value:
    """Multiply ``x`` ``[rows, K]`` with the transpose of ``source`` ``[N, K]``: ``[rows, N]``."""
    out, width = source.rows, source.width
    weights = _stored_matrix(b, f"{name}/weight", source, scheme)
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
        (table,) = _stored_matrix(b, f"{name}/weight", source, scheme)
        return b.op("Gather", name, [table, ids], shape, axis=0)
    if source.width % scheme.block_size:
        raise BuildError(
            f"{source.label}: width {source.width} does not divide by block {scheme.block_size}; "
            "use a smaller --block-size"
        )
    codes, scales, *zeros = _stored_matrix(b, f"{name}/weight", source, scheme, flat=True)
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
    scheme: Scheme,
    accuracy_level: int,
) -> ir.Value:
    """Run the ``top_k`` experts of each token and add their outputs: ``[tokens, H]``.

    ``selection`` and ``mixing`` are ``[tokens, E]``: experts are chosen by the first and weighed
    by the second. One fused node; gate and up are interleaved row by row, as its CPU kernel asks.
    """
    hidden = experts[0].gate.width
    inner = experts[0].gate.rows
    if not scheme.is_float and hidden % scheme.block_size:
        raise BuildError(
            f"{experts[0].gate.label}: width {hidden} does not divide by block "
            f"{scheme.block_size}; use a smaller --block-size"
        )
    # The kernel takes whole blocks only: pad the inner width with units that add nothing.
    padded = inner if scheme.is_float else scheme.blocks(inner) * scheme.block_size
    if padded != inner:
        b.pad(name, inner, scheme.block_size)
    fc1 = _expert_stack(b, f"{name}/gate_up", len(experts), 2 * padded, hidden, scheme)
    fc2 = _expert_stack(b, f"{name}/down", len(experts), hidden, padded, scheme)
    for index, expert in enumerate(experts):
        b.steps.append(_expert_step(name, index, expert, padded, scheme))
    common: dict[str, Any] = {
        "k": top_k,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
    }
    shape: list[Dim] = ["tokens", hidden]
    if scheme.is_float:
        # MoE has no input for the mixing weights. It takes the softmax over the chosen logits,
        # which is the chosen probabilities over their sum: the caller multiplies with that sum.
        return b.op(
            "MoE",
            name,
            [x, selection, fc1[0], None, fc2[0]],
            shape,
            domain=CONTRIB,
            normalize_routing_weights=1,
            **common,
        )
    inputs = [x, selection, fc1[0], fc1[1], None, fc2[0], fc2[1], None, None, None, None]
    inputs += [None, None] if scheme.symmetric else [fc1[2], fc2[2]]
    return b.op(
        "QMoE",
        name,
        [*inputs, None, mixing],
        shape,
        domain=CONTRIB,
        expert_weight_bits=scheme.bits,
        block_size=scheme.block_size,
        accuracy_level=accuracy_level,
        # Set, it would also divide the mixing weights that it is given by their sum.
        normalize_routing_weights=0,
        **common,
    )


def _stored_matrix(
    b: GraphBuilder, name: str, source: Matrix, scheme: Scheme, flat: bool = False
) -> list[ir.Value]:
    """Declare the tensors that store ``source`` and the steps that fill them."""
    rows, width = source.rows, source.width
    if scheme.is_float:
        names = [name]
        values = [b.weight(name, FLOAT, [rows, width])]
    else:
        blocks = scheme.blocks(width)
        blob = scheme.block_size * scheme.bits // 8
        if width % scheme.block_size:
            b.pad(name.removesuffix("/weight"), width, scheme.block_size)
        names = [name, f"{name}/scales"]
        values = [
            b.weight(name, UINT8, [rows, blocks * blob] if flat else [rows, blocks, blob]),
            b.weight(names[1], FLOAT, [rows, blocks]),
        ]
        if not scheme.symmetric:
            names.append(f"{name}/zero_points")
            values.append(b.weight(names[2], UINT8, [rows, -(-blocks * scheme.bits // 8)]))
    for start, stop in source.chunks():

        def produce(start: int = start, stop: int = stop) -> list[Part]:
            matrix = source.read(start, stop)
            if scheme.is_float:
                return [Part(name, start, matrix)]
            arrays = _arrays(quantize(matrix, scheme, source.label))
            if flat:
                arrays[0] = arrays[0].reshape(stop - start, -1)
            return [Part(key, start, array) for key, array in zip(names, arrays, strict=True)]

        b.steps.append(
            Step(f"{name}[{start}:{stop}]", source.tensors, (stop - start) * width, produce)
        )
    return values


def _expert_stack(
    b: GraphBuilder, name: str, experts: int, rows: int, width: int, scheme: Scheme
) -> list[ir.Value]:
    if scheme.is_float:
        return [b.weight(name, FLOAT, [experts, rows, width])]
    blocks = scheme.blocks(width)
    values = [
        b.weight(name, UINT8, [experts, rows, width * scheme.bits // 8]),
        b.weight(f"{name}/scales", FLOAT, [experts, rows, blocks]),
    ]
    if not scheme.symmetric:
        packed = -(-blocks * scheme.bits // 8)
        values.append(b.weight(f"{name}/zero_points", UINT8, [experts, rows, packed]))
    return values


def _expert_step(name: str, index: int, expert: Expert, padded: int, scheme: Scheme) -> Step:
    def produce() -> list[Part]:
        gate, up, down = expert.gate.read(), expert.up.read(), expert.down.read()
        inner, hidden = gate.shape
        gate_up = np.zeros((2 * padded, hidden), np.float32)
        gate_up[0 : 2 * inner : 2] = gate
        gate_up[1 : 2 * inner : 2] = up
        down = np.pad(down, ((0, 0), (0, padded - inner)))
        parts: list[Part] = []
        for role, matrix, label in (
            ("gate_up", gate_up, f"{expert.gate.label} + {expert.up.label}"),
            ("down", down, expert.down.label),
        ):
            if scheme.is_float:
                parts.append(Part(f"{name}/{role}", index, matrix[None]))
                continue
            arrays = _arrays(quantize(matrix, scheme, label))
            arrays[0] = arrays[0].reshape(len(matrix), -1)
            keys = [f"{name}/{role}{suffix}" for suffix in ("", "/scales", "/zero_points")]
            parts += [
                Part(key, index, array[None]) for key, array in zip(keys, arrays, strict=False)
            ]
        return parts

    tensors = expert.gate.tensors + expert.up.tensors + expert.down.tensors
    values = 3 * expert.gate.rows * expert.gate.width
    return Step(f"{name}/experts.{index}", tensors, values, produce)


def _arrays(matrix: QuantizedMatrix) -> list[NDArray[np.generic]]:
    arrays: list[NDArray[np.generic]] = [matrix.packed, matrix.scales]
    if matrix.zero_points is not None:
        arrays.append(matrix.zero_points)
    return arrays
