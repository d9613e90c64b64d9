"""What attention multiplies with: the projections, and W_UK and W_UV for each head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.weights.head_matrices import HeadMatrices, declare_rounded_heads
from trtcoder.export.weights.matrix import Piece
from trtcoder.export.weights.plan import DType
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

# Of the two norms inside attention, whatever rms_norm_eps is: so the published code has it.
EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Projected:
    """Outputs of the projections, which may be one tensor, and the first columns of their runs.

    Attributes:
        query: ``[tokens, columns]``: all heads' parts without position, and their rotary parts.
        latent: ``[tokens, columns]``: c_kv before its norm, and k_pe before it is rotated.
        nope, rope: where the query's parts begin.
        c_kv, k_pe: where the latent's do.
    """

    query: ir.Value
    latent: ir.Value
    nope: int
    rope: int
    c_kv: int
    k_pe: int


def project(
    model: ModelBuilder, config: DeepseekV2Config, name: str, prefix: str, x: ir.Value
) -> Projected:
    """Multiply ``x`` with the projections.

    Their rows are reordered so that one matmul yields the runs, each of them contiguous.
    """
    heads, nope, rope = (
        config.num_attention_heads,
        config.qk_nope_head_dim,
        config.qk_rope_head_dim,
    )
    latent = config.kv_lora_rank
    by_head = np.arange(heads * (nope + rope), dtype=np.int64).reshape(heads, nope + rope)
    nope_rows, pe_rows = by_head[:, :nope].ravel(), by_head[:, nope:].ravel()
    kv_a = f"{prefix}.kv_a_proj_with_mqa.weight"
    if config.q_lora_rank is None:
        q_proj = f"{prefix}.q_proj.weight"
        fused = model.linear(
            f"{name}/q_kv_a_proj",
            "attention",
            x,
            model.matrix(
                Piece(q_proj, nope_rows),
                Piece(kv_a, np.arange(latent, dtype=np.int64)),
                Piece(q_proj, pe_rows),
                Piece(kv_a, np.arange(latent, latent + rope, dtype=np.int64)),
            ),
        )
        starts = np.cumsum([0, heads * nope, latent, heads * rope]).tolist()
        return Projected(
            fused, fused, nope=starts[0], c_kv=starts[1], rope=starts[2], k_pe=starts[3]
        )
    rank = config.q_lora_rank
    fused = model.linear(
        f"{name}/q_a_kv_a_proj",
        "attention",
        x,
        model.matrix(Piece(f"{prefix}.q_a_proj.weight"), Piece(kv_a)),
    )
    q_a, kv = model.split(name, "split_a", fused, ("q_a", "kv_a"), (rank, latent + rope))
    q_a = model.norm(f"{name}/q_norm", f"{prefix}.q_a_layernorm.weight", q_a, rank, EPSILON)
    q_b = f"{prefix}.q_b_proj.weight"
    query = model.linear(
        f"{name}/q_b_proj",
        "attention",
        q_a,
        model.matrix(Piece(q_b, nope_rows), Piece(q_b, pe_rows)),
    )
    return Projected(query, kv, nope=0, rope=heads * nope, c_kv=0, k_pe=latent)


def absorbed(
    model: ModelBuilder, config: DeepseekV2Config, name: str, prefix: str, role: str
) -> ir.Value:
    """Return W_UK ``[heads, nope, latent]`` (k) or W_UV transposed ``[heads, latent, v]`` (v).

    For ONNX Runtime's operators, which multiply batches with floats alone. Codes are dequantized
    when it loads the graph.
    """
    values, scales = absorbed_inputs(model, config, name, prefix, role)
    scheme = model.recipe.absorbed
    if scales is None or scheme is None:
        return values
    return model.b.op(
        "DequantizeLinear",
        f"{name}/absorb_{role}/float32",
        [values, scales],
        _form(model, config, name, prefix, role).shape,
        axis=1,
        block_size=scheme.block_size,
    )


def absorbed_inputs(
    model: ModelBuilder, config: DeepseekV2Config, name: str, prefix: str, role: str
) -> tuple[ir.Value, ir.Value | None]:
    """Return the matrix of `absorbed` as our own operator takes it: as it is stored.

    That is in the checkpoint's type, or int8 codes and their scales ``[heads, blocks, outputs]``.
    """
    b, form = model.b, _form(model, config, name, prefix, role)
    weight, scheme = f"{name}/absorb_{role}/weight", model.recipe.absorbed
    narrow = (DType.FLOAT16, DType.BFLOAT16) if b.uses_kernels else ()
    if scheme is not None:
        codes, scales = declare_rounded_heads(b.plan, weight, "absorbed", form, scheme)
        return b.weight(codes, view=ir.DataType.INT8), b.weight(scales, narrow=narrow)
    (tensor,) = form.source.tensors
    read = partial(form.read, b.plan.quantizer)
    return model.parameter(weight, "absorbed", form.shape, tensor, read, narrow=narrow), None


def _form(
    model: ModelBuilder, config: DeepseekV2Config, name: str, prefix: str, role: str
) -> HeadMatrices:
    """Return where W_UK (k) or W_UV (v) of all heads come from."""
    heads, nope, value = config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim
    by_head = np.arange(heads * (nope + value), dtype=np.int64).reshape(heads, nope + value)
    rows = by_head[:, :nope] if role == "k" else by_head[:, nope:]
    source = model.matrix(Piece(f"{prefix}.kv_b_proj.weight", rows.ravel()))
    if role == "k":
        return HeadMatrices(source, heads)
    return HeadMatrices(source, heads, transposed=True, makes=f"{name}/heads")
