"""A small dense architecture that trtcoder does not know: what adding one takes, all of it.

A decoder with one key and value head for all query heads, interleaved rotary pairs, RMS norms,
SwiGLU and a tied head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from trtcoder.bundle.onnx import CacheInfo
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import ConfigError
from trtcoder.export.graph import registry as graphs
from trtcoder.export.graph.attention_mask import attention_bias
from trtcoder.export.graph.builder import CONTRIB
from trtcoder.export.graph.inputs import Inputs, declare_inputs, rotate
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.reference import registry as references
from trtcoder.export.reference.trace import LayerTrace
from trtcoder.model import registry as configs
from trtcoder.model.architecture import ModelConfig, Shapes
from trtcoder.model.deepseek_v2.yarn import plain_inverse_frequencies

Floats = NDArray[np.float32]
TOY = {
    "model_type": "toy_dense",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 16384,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
TABLE = "model.embed_tokens.weight"


def register(patch: pytest.MonkeyPatch) -> None:
    """Make the architecture known, as three lines of trtcoder would."""
    patch.setitem(configs.CONFIGS, "toy_dense", ToyConfig.from_dict)
    patch.setitem(graphs.GRAPHS, "toy_dense", declare_toy)
    patch.setitem(references.REFERENCES, "toy_dense", ToyReference)


@dataclass(frozen=True, slots=True)
class ToyConfig:
    """Its configuration (see `ModelConfig`)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    raw: Mapping[str, Any]
    n_routed_experts: int = 0
    published_name: str | None = None
    tie_word_embeddings: bool = True

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str) -> ToyConfig:
        unknown = data.keys() - TOY.keys()
        if unknown:
            raise ConfigError(f"{source}: unknown {', '.join(sorted(unknown))}")
        known = {key: value for key, value in data.items() if key != "model_type"}
        return cls(eos_token_ids=(known.pop("eos_token_id"),), raw=data, **known)

    def untied(self) -> ToyConfig:
        raise ConfigError("toy_dense: its head is always tied")

    def is_moe_layer(self, layer: int) -> bool:
        return False

    def expected_tensors(self) -> Shapes:
        hidden, inner = self.hidden_size, self.intermediate_size
        width = self.num_attention_heads * self.head_dim
        shapes: Shapes = {TABLE: (self.vocab_size, hidden)}
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            shapes |= {
                f"{prefix}.input_layernorm.weight": (hidden,),
                f"{prefix}.self_attn.q_proj.weight": (width, hidden),
                f"{prefix}.self_attn.k_proj.weight": (self.head_dim, hidden),
                f"{prefix}.self_attn.v_proj.weight": (self.head_dim, hidden),
                f"{prefix}.self_attn.o_proj.weight": (hidden, width),
                f"{prefix}.post_attention_layernorm.weight": (hidden,),
                f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
                f"{prefix}.mlp.up_proj.weight": (inner, hidden),
                f"{prefix}.mlp.down_proj.weight": (hidden, inner),
            }
        return shapes | {"model.norm.weight": (hidden,)}


def toy_config(config: ModelConfig) -> ToyConfig:
    assert isinstance(config, ToyConfig)
    return config


def declare_toy(model: ModelBuilder) -> tuple[CacheInfo, ...]:
    """Declare its graph."""
    b, config = model.b, toy_config(model.checkpoint.config)
    width, hidden, epsilon = 2 * config.head_dim, config.hidden_size, config.rms_norm_eps
    layers = range(config.num_hidden_layers)
    caches = [b.input(f"cache.{layer}", ir.DataType.FLOAT, ["rows", width]) for layer in layers]
    frequencies = plain_inverse_frequencies(config.head_dim, 10000.0)
    inputs = declare_inputs(b, frequencies, 1.0, caches[0])
    residual, branch = model.embedding("embed_tokens", inputs.input_ids, TABLE), None
    written = []
    for layer in layers:
        model = model.in_layer(layer)
        name, prefix = f"layers.{layer}", f"model.layers.{layer}"
        normed, residual = model.skip_norm(
            f"{name}/input_norm", f"{prefix}.input_layernorm.weight", residual, branch,
            f"layers.{layer - 1}/output", hidden, epsilon,
        )  # fmt: skip
        attention, rows = _attention(model, config, layer, normed, inputs, caches[layer])
        written.append(rows)
        normed, residual = model.skip_norm(
            f"{name}/post_attention_norm", f"{prefix}.post_attention_layernorm.weight", residual,
            attention, f"{name}/attention/residual", hidden, epsilon,
        )  # fmt: skip
        branch = model.swiglu(f"{name}/mlp", f"{prefix}.mlp", normed)
    model = model.in_layer(None)
    last = f"layers.{config.num_hidden_layers - 1}/output"
    normed, _ = model.skip_norm(
        "final_norm", "model.norm.weight", residual, branch, last, hidden, epsilon
    )
    model.head(normed, inputs.sample_rows, TABLE)
    for layer, rows in enumerate(written):
        b.output(rows, f"cache.{layer}.out")
    return tuple(CacheInfo(f"cache.{layer}", "float32", width) for layer in layers)


def _attention(
    model: ModelBuilder, config: ToyConfig, layer: int, x: ir.Value, inputs: Inputs, cache: ir.Value
) -> tuple[ir.Value, ir.Value]:
    b, heads, width = model.b, config.num_attention_heads, config.head_dim
    name, prefix = f"layers.{layer}/attention", f"model.layers.{layer}.self_attn"
    source = model.matrix(*(f"{prefix}.{role}_proj.weight" for role in "qkv"))
    fused = model.linear(f"{name}/qkv", "attention", x, source)
    turned, value = model.split(name, "split", fused, ("qk", "v"), ((heads + 1) * width, width))
    turned = rotate(b, f"{name}/rotary", turned, heads + 1, width, inputs)
    query, key = model.split(name, "split_rotary", turned, ("q", "k"), (heads * width, width))
    entry = b.op("Concat", f"{name}/entry", [key, value], ["tokens", 2 * width], axis=1)
    rows = b.op(
        "ScatterND", f"{name}/cache", [cache, inputs.slot_column(b), entry], ["rows", 2 * width]
    )
    keys, values = b.multi_op(
        "Split", f"{name}/rows", [rows, b.ints(width, width)],
        [(f"{name}/{role}", ir.DataType.FLOAT, ["rows", width]) for role in ("keys", "values")],
        axis=1,
    )  # fmt: skip
    query = b.op(
        "Reshape", f"{name}/heads", [query, b.ints(-1, heads, width)], ["tokens", heads, width]
    )
    query = b.op("Transpose", f"{name}/by_head", [query], [heads, "tokens", width], perm=[1, 0, 2])
    scores = b.op(
        "FusedMatMul", f"{name}/scores", [query, keys], [heads, "tokens", "rows"],
        domain=CONTRIB, transB=1, alpha=width**-0.5,
    )  # fmt: skip
    scores = b.op(
        "Add", f"{name}/masked", [scores, attention_bias(b, inputs)], [heads, "tokens", "rows"]
    )
    weights = b.op("Softmax", f"{name}/softmax", [scores], [heads, "tokens", "rows"], axis=-1)
    mixed = b.op("MatMul", f"{name}/mix", [weights, values], [heads, "tokens", width])
    mixed = b.op("Transpose", f"{name}/mixed", [mixed], ["tokens", heads, width], perm=[1, 0, 2])
    out = b.op(
        "Reshape", f"{name}/out", [mixed, b.ints(-1, heads * width)], ["tokens", heads * width]
    )
    o_proj = model.matrix(f"{prefix}.o_proj.weight")
    return model.linear(f"{name}/o_proj", "attention", out, o_proj), rows


@dataclass(slots=True)
class ToySequence:
    """One sequence on its way through the reference."""

    stream: Floats
    positions: NDArray[np.int64]


class ToyReference:
    """The forward pass in NumPy (see `Reference`)."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._config = checkpoint, toy_config(checkpoint.config)

    def embed(self, ids: NDArray[np.int64], where: int | NDArray[np.int64] = 0) -> ToySequence:
        positions = np.arange(len(ids)) + where if isinstance(where, int) else where
        return ToySequence(self._checkpoint.read(TABLE)[ids], positions)

    def run_layer(self, layer: int, states: Sequence[ToySequence]) -> list[LayerTrace]:
        for state in states:
            state.stream = self._layer(f"model.layers.{layer}", state)
        return [LayerTrace(state.stream, None) for state in states]

    def logits(self, states: Sequence[ToySequence]) -> Iterator[Floats]:
        for state in states:
            yield self._norm("model.norm", state.stream) @ self._checkpoint.read(TABLE).T

    def versions(self) -> dict[str, str]:
        return {"toy": "1"}

    def _layer(self, prefix: str, state: ToySequence) -> Floats:
        width, count = self._config.head_dim, len(state.stream)
        x = self._norm(f"{prefix}.input_layernorm", state.stream)
        query, key, value = (
            x @ self._checkpoint.read(f"{prefix}.self_attn.{role}_proj.weight").T for role in "qkv"
        )
        query = self._turn(query.reshape(count, -1, width), state.positions)
        key = self._turn(key[:, None], state.positions)[:, 0]
        scores = np.einsum("thd,sd->hts", query, key) * width**-0.5
        scores = np.where(np.tri(count, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hts,sd->thd", weights, value).reshape(count, -1)
        attended = state.stream + mixed @ self._read(f"{prefix}.self_attn.o_proj").T
        x = self._norm(f"{prefix}.post_attention_layernorm", attended)
        gate, up = (x @ self._read(f"{prefix}.mlp.{role}_proj").T for role in ("gate", "up"))
        branch = (gate / (1 + np.exp(-gate)) * up) @ self._read(f"{prefix}.mlp.down_proj").T
        return np.asarray(attended + branch, np.float32)

    def _turn(self, x: Floats, positions: NDArray[np.int64]) -> Floats:
        frequencies = plain_inverse_frequencies(self._config.head_dim, 10000.0)
        angles = (positions[:, None].astype(np.float32) * frequencies)[:, None]
        turned = np.exp(1j * angles.astype(np.float64)) * (x[..., 0::2] + 1j * x[..., 1::2])
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape).astype(np.float32)

    def _norm(self, name: str, x: Floats) -> Floats:
        scale = np.sqrt((x**2).mean(-1, keepdims=True) + self._config.rms_norm_eps)
        return np.asarray(x / scale * self._read(name), np.float32)

    def _read(self, name: str) -> Floats:
        return self._checkpoint.read(f"{name}.weight")
