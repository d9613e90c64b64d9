"""DeepSeek-V2's tensors as a quantized checkpoint stores them, planned in the model's order.

Stages, activations and the matrices' names are those of the graph (`trtcoder.export.graph`), so
that calibration and certificates treat both alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtcoder.calib.storage import nvfp4
from trtcoder.calib.storage.float8 import Float8, scale_for
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import Recipe
from trtcoder.export.targets.checkpoints.exclusions import excluded
from trtcoder.export.targets.checkpoints.form import Form, form_of
from trtcoder.export.weights import float8
from trtcoder.export.weights.experts import expert_product
from trtcoder.export.weights.matrix import Matrix, Piece
from trtcoder.export.weights.modules import (
    BlockFloat4,
    BlockFloat8,
    Kept,
    Linear,
    Packed,
    StoredModule,
    TensorFloat8,
    add_joint_step,
    add_steps,
    declare_parameter,
)
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

Floats = NDArray[np.float32]


def declare_deepseek_v2(
    plan: WeightPlan, checkpoint: Checkpoint, recipe: Recipe
) -> Mapping[str, str]:
    """Declare every tensor and what fills it; return the modules that stay, with the reason.

    Raises:
        BuildError: a server would refuse the experts in this form.
    """
    config = DeepseekV2Config.of(checkpoint.config)
    model = _Model(plan, checkpoint, config, recipe, form_of(recipe), _excluded(config, recipe))
    model.matrix("model.embed_tokens", "embed_tokens/weight", "embedding", "")
    for layer in range(config.num_hidden_layers):
        plan.next_stage()
        model.layer(layer)
    plan.next_stage()
    model.norm("model.norm", "final_norm")
    if not config.tie_word_embeddings:
        model.matrix("lm_head", "lm_head/weight", "lm_head", "final_norm")
    return model.excluded


def linear_shapes(config: DeepseekV2Config) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each linear module."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in config.expected_tensors().items()
        if len(shape) == 2 and name != "model.embed_tokens.weight"
    }


def _excluded(config: DeepseekV2Config, recipe: Recipe) -> dict[str, str]:
    scheme = recipe.scheme("experts_gate_up")
    group = scheme.block_size if isinstance(scheme, Scheme) else 0
    return excluded(linear_shapes(config), form_of(recipe), group)


@dataclass(frozen=True, slots=True)
class _Model:
    """Declares modules of one checkpoint by one recipe."""

    plan: WeightPlan
    checkpoint: Checkpoint
    config: DeepseekV2Config
    recipe: Recipe
    form: Form
    excluded: Mapping[str, str]

    def layer(self, layer: int) -> None:
        """Declare one decoder layer, in the order of the checkpoint."""
        module, name = f"model.layers.{layer}", f"layers.{layer}"
        self.norm(f"{module}.input_layernorm", f"{name}/input_norm")
        self._attention(f"{module}.self_attn", name)
        normed = f"{name}/post_attention_norm"
        self.norm(f"{module}.post_attention_layernorm", normed)
        if not self.config.is_moe_layer(layer):
            self._mlp(f"{module}.mlp", f"{name}/mlp", normed)
            return
        self._router(f"{module}.mlp.gate", f"{name}/moe/router", normed)
        self._experts(f"{module}.mlp.experts", f"{name}/moe/experts", normed)
        if self.config.shared_intermediate_size:
            self._mlp(f"{module}.mlp.shared_experts", f"{name}/moe/shared_experts", normed)

    def norm(self, module: str, activation: str) -> None:
        """Declare a norm, whose output is called ``activation``."""
        tensor = f"{module}.weight"

        def read() -> Floats:
            values = self.checkpoint.read(tensor)
            scale = self.plan.quantizer.input_scale(activation)
            return values if scale is None else values / scale

        shape = self.checkpoint.shape(tensor)
        declare_parameter(self.plan, tensor, f"{activation}/weight", "norms", shape, read)

    def matrix(self, module: str, name: str, kind: str, activation: str) -> None:
        """Declare a module by itself."""
        add_steps(self.plan, self._stored(self._linear(module, name, kind, activation)))

    def _attention(self, module: str, layer: str) -> None:
        name, normed = f"{layer}/attention", f"{layer}/input_norm"
        if self.config.q_lora_rank is None:
            projections = [("q_proj", normed)]
        else:
            projections = [("q_a_proj", normed), ("q_b_proj", f"{name}/q_norm")]
        for role, activation in (*projections, ("kv_a_proj_with_mqa", normed)):
            self.matrix(f"{module}.{role}", f"{name}/{role}/weight", "attention", activation)
            if role == "q_a_proj":
                self.norm(f"{module}.q_a_layernorm", f"{name}/q_norm")
        self.norm(f"{module}.kv_a_layernorm", f"{name}/kv_norm")
        self._values(f"{module}.kv_b_proj", name)
        self.matrix(f"{module}.o_proj", f"{name}/o_proj/weight", "attention", f"{name}/heads")

    def _values(self, module: str, name: str) -> None:
        """Declare W_UK and W_UV, whose value rows make what o_proj multiplies."""
        tensor, config = f"{module}.weight", self.config
        heads, nope = config.num_attention_heads, config.qk_nope_head_dim

        def read() -> Floats:
            values = self.checkpoint.read(tensor)
            scale = self.plan.quantizer.input_scale(f"{name}/heads")
            if scale is not None:
                by_head = values.reshape(heads, nope + config.v_head_dim, -1)
                by_head[:, nope:] /= scale.reshape(heads, config.v_head_dim, 1)
            return values

        shape = self.checkpoint.shape(tensor)
        declare_parameter(self.plan, tensor, f"{name}/kv_b_proj/weight", "absorbed", shape, read)

    def _router(self, module: str, name: str, activation: str) -> None:
        tensor = f"{module}.weight"

        def read() -> Floats:
            values = self.checkpoint.read(tensor)
            scale = self.plan.quantizer.input_scale(activation)
            return values if scale is None else values * scale

        shape = self.checkpoint.shape(tensor)
        declare_parameter(self.plan, tensor, f"{name}/weight", "router", shape, read)

    def _mlp(self, module: str, name: str, activation: str) -> None:
        product = f"{name}/product"
        gate, up, down = (
            self._linear(f"{module}.{role}_proj", f"{name}/{role}_proj/weight", "mlp", taken, makes)
            for role, taken, makes in (
                ("gate", activation, None), ("up", activation, product), ("down", product, None)
            )
        )  # fmt: skip
        fused = self._largest(gate, up)
        for linear, largest in ((gate, fused), (up, fused), (down, None)):
            add_steps(self.plan, self._stored(linear, largest))

    def _experts(self, module: str, name: str, activation: str) -> None:
        count = self.config.n_routed_experts
        # One expert's activations may be few; servers take the largest scale of a layer anyway.
        products = [expert_product(name, index) for index in range(count)]
        scale = functools.cache(lambda: self._input_scale(*products))
        for index, product in enumerate(products):
            gate, up, down = (
                self._linear(
                    f"{module}.{index}.{role}_proj", f"{name}/{role}[{index}]", kind, taken, makes
                )
                for role, kind, taken, makes in (
                    ("gate", "experts_gate_up", activation, None),
                    ("up", "experts_gate_up", activation, product),
                    ("down", "experts_down", product, None),
                )
            )
            fused = self._largest(gate, up)
            stored = [self._stored(gate, fused), self._stored(up, fused)]
            stored.append(self._stored(down, None, scale))
            add_joint_step(self.plan, f"{name}.{index}", stored)

    def _linear(
        self, module: str, name: str, kind: str, activation: str, makes: str | None = None
    ) -> Linear:
        piece = Piece(f"{module}.weight", makes=makes)
        return Linear(module, name, kind, activation, Matrix(self.checkpoint, (piece,)))

    def _stored(
        self,
        linear: Linear,
        largest: Callable[[], float] | None = None,
        input_scale: Callable[[], Floats] | None = None,
    ) -> StoredModule:
        """Declare a module in the checkpoint's form, or as it is where it is excluded."""
        if linear.module in self.excluded or linear.kind == "embedding":
            return Kept(self.plan, linear)
        scheme = self.recipe.scheme(linear.kind)
        if isinstance(scheme, Scheme):
            return Packed(self.plan, linear, scheme)
        if isinstance(scheme, Float8) and scheme.per_block:
            return BlockFloat8(self.plan, linear, scheme)
        largest = largest or self._largest(linear)
        if input_scale is None:
            input_scale = functools.cache(lambda: self._input_scale(linear.activation))
        if isinstance(scheme, nvfp4.Nvfp4):
            return BlockFloat4(self.plan, linear, scheme, largest, input_scale)
        return TensorFloat8(self.plan, linear, scheme, largest, input_scale)

    def _largest(self, *linears: Linear) -> Callable[[], float]:
        """Return what finds the largest magnitude of matrices that servers fuse."""
        names = [linear.name for linear in linears]
        return functools.cache(lambda: float8.largest_of(self.plan, *names))

    def _input_scale(self, *activations: str) -> Floats:
        """Return the scale of activations that one scale rounds, float32 ``[1]``."""
        found = [self.plan.quantizer.amax(each) for each in activations]
        largest = max((each for each in found if each is not None), default=None)
        if largest is None:
            return np.ones(1, np.float32)
        if self.form is Form.NVFP4:
            return nvfp4.scale_for(largest)
        return scale_for(largest, "bfloat16").reshape(1)


def refuse_other_types(checkpoint: Checkpoint) -> None:
    """Raise BuildError unless the checkpoint is a DeepSeek-V2."""
    model_type = checkpoint.config.raw.get("model_type")
    if model_type != "deepseek_v2":
        raise BuildError(
            f"{checkpoint.folder}: quantized checkpoints are made of deepseek_v2 only, not of "
            f"{model_type!r}; use --target onnx"
        )
