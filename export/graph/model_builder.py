"""Layers of a model whose weights come from one checkpoint and whose precision from one recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.calib.storage.float8 import Float8
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.graph import kernels, layers
from trtcoder.export.graph.builder import CONTRIB, Dim, GraphBuilder
from trtcoder.export.graph.float8 import layers as float8_layers
from trtcoder.export.graph.kernels import PanelMlp
from trtcoder.export.recipe import Recipe
from trtcoder.export.weights.convert import declare_parameter
from trtcoder.export.weights.matrix import Matrix, Piece
from trtcoder.export.weights.panels import declare_panels, in_panels
from trtcoder.export.weights.plan import DType, Weight

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True, slots=True)
class ModelBuilder:
    """Adds layers to ``b``'s graph: in one decoder layer, or outside of them where it is None."""

    b: GraphBuilder
    checkpoint: Checkpoint
    recipe: Recipe
    layer: int | None = None

    def in_layer(self, layer: int | None) -> Self:
        """Return the builder of another decoder layer; what it stores is a stage of its own."""
        self.b.plan.next_stage()
        return dataclasses.replace(self, layer=layer)

    def matrix(self, *pieces: str | Piece) -> Matrix:
        """Return checkpoint tensors, or parts of them, stacked."""
        return Matrix(
            self.checkpoint,
            tuple(Piece(piece) if isinstance(piece, str) else piece for piece in pieces),
        )

    def parameter(
        self,
        name: str,
        kind: str,
        shape: tuple[int, ...],
        tensor: str,
        read: Callable[[], NDArray[np.float32]],
        narrow: Collection[DType] = (),
        as_type: ir.DataType | None = None,
    ) -> ir.Value:
        """Return what ``read`` makes of a tensor, stored as `declare` says.

        It is of the activations' type or ``as_type``, but for the types that the node takes as they
        are, ``narrow``.
        """
        weight = self.declare(name, kind, shape, tensor, read)
        return self.b.weight(weight, narrow=narrow, dtype=as_type)

    def declare(
        self,
        name: str,
        kind: str,
        shape: tuple[int, ...],
        tensor: str,
        read: Callable[[], NDArray[np.float32]],
    ) -> Weight:
        """Declare a parameter in its tensor's own type, and the step that fills it."""
        dtype = self.checkpoint.dtype(tensor)
        return declare_parameter(self.b.plan, name, kind, shape, (tensor,), dtype, read)

    def embedding(self, name: str, ids: ir.Value, tensor: str) -> ir.Value:
        """Look up rows of a tensor ``[V, H]``: ``[tokens, H]``."""
        return layers.embedding(self.b, name, ids, self.matrix(tensor), self.recipe.table_scheme())

    def linear(
        self,
        name: str,
        kind: str,
        x: ir.Value,
        source: Matrix,
        rows: str = "tokens",
        activation: str | None = None,
    ) -> ir.Value:
        """Multiply with a matrix of a class that the recipe stores: ``[rows, rows of source]``."""
        scheme = self.recipe.graph_scheme(kind, self.layer)
        if isinstance(scheme, Float8):
            return float8_layers.linear(self.b, name, kind, x, source, scheme, rows, activation)
        return layers.linear(self.b, name, kind, x, source, scheme, self.recipe, rows, activation)

    def norm(self, name: str, tensor: str, x: ir.Value, width: int, epsilon: float) -> ir.Value:
        """Normalise ``x`` ``[tokens, width]`` by its root mean square."""
        weight = self.norm_weight(name, tensor)
        if self.b.uses_kernels:
            return kernels.rms_norm(self.b, name, x, weight, width, epsilon)
        return self.b.op("RMSNormalization", name, [x, weight], ["tokens", width], epsilon=epsilon)

    def skip_norm(
        self,
        name: str,
        tensor: str,
        residual: ir.Value,
        branch: ir.Value | None,
        total: str,
        width: int,
        epsilon: float,
    ) -> tuple[ir.Value, ir.Value]:
        """Add ``branch`` to ``residual`` and normalise the sum, which is called ``total``.

        Returns the norm and the sum. Before the first layer there is no branch, and nothing to add.
        """
        if branch is None:
            return self.norm(name, tensor, residual, width, epsilon), residual
        weight = self.norm_weight(name, tensor)
        if self.b.uses_kernels:
            return kernels.skip_norm(self.b, name, branch, residual, weight, total, width, epsilon)
        shape: list[Dim] = ["tokens", width]
        normed, _, _, residual = self.b.multi_op(
            "SkipSimplifiedLayerNormalization",
            name,
            [branch, residual, weight],
            [(name, None, shape), None, None, (total, None, shape)],
            domain=CONTRIB,
            epsilon=epsilon,
        )
        return normed, residual

    def norm_weight(self, name: str, tensor: str, as_type: ir.DataType | None = None) -> ir.Value:
        """Return the weight of the norm ``name``, whose output is the activation ``name``.

        ``as_type`` as of `parameter`.
        """

        def read() -> NDArray[np.float32]:
            values = self.checkpoint.read(tensor)
            scale = self.b.plan.quantizer.input_scale(name)
            return values if scale is None else values / scale

        shape = self.checkpoint.shape(tensor)
        return self.parameter(f"{name}/weight", "norms", shape, tensor, read, as_type=as_type)

    def swiglu(self, name: str, prefix: str, x: ir.Value) -> ir.Value:
        """Return ``down(silu(gate x) * up x)`` of the tensors ``PREFIX.{gate,up,down}_proj``."""
        b = self.b
        inner = self.checkpoint.shape(f"{prefix}.gate_proj.weight")[0]
        panels = self.panel_mlp(name, prefix, x)
        if panels is not None and b.uses_kernels:
            return kernels.mlp(b, f"{name}/down_proj", x, panels)
        if panels is None:
            gate_up = self.gate_up(name, prefix)
            fused = self.linear(f"{name}/gate_up_proj", "mlp", x, gate_up)
        else:
            fused = layers.product(b, f"{name}/gate_up_proj", x, panels.gate_up, self.recipe)
        gated, raised = self.split(name, "split", fused, ("gate", "up"), (inner, inner))
        # QuickGelu with alpha 1 is x * sigmoid(x), that is SiLU.
        gated = b.op(
            "QuickGelu", f"{name}/silu", [gated], ["tokens", inner], domain=CONTRIB, alpha=1.0
        )
        product = b.op("Mul", f"{name}/product", [gated, raised], ["tokens", inner])
        if panels is not None:
            return layers.product(b, f"{name}/down_proj", product, panels.down, self.recipe)
        return self.linear(
            f"{name}/down_proj", "mlp", product, self.matrix(f"{prefix}.down_proj.weight")
        )

    def panel_mlp(self, name: str, prefix: str, x: ir.Value) -> PanelMlp | None:
        """Declare an MLP's weights in panels; None where it is not stored so."""
        scheme = self.recipe.graph_scheme("mlp", self.layer)
        if not in_panels(scheme, self.recipe):
            return None
        plan, gate_up = self.b.plan, self.gate_up(name, prefix)
        down = self.matrix(f"{prefix}.down_proj.weight")
        for role, width in (("gate_up_proj", gate_up.width), ("down_proj", down.width)):
            if not scheme.is_float and width % scheme.block_size:
                plan.pad(f"{name}/{role}", width, scheme.block_size)
        return PanelMlp(
            declare_panels(
                plan, f"{name}/gate_up_proj/weight", "mlp", str(x.name), gate_up, scheme, pair=True
            ),
            declare_panels(
                plan, f"{name}/down_proj/weight", "mlp", f"{name}/product", down, scheme
            ),
        )

    def gate_up(self, name: str, prefix: str) -> Matrix:
        """Return gate and up, stacked."""
        up = Piece(f"{prefix}.up_proj.weight", makes=f"{name}/product")
        return self.matrix(f"{prefix}.gate_proj.weight", up)

    def split(
        self, name: str, role: str, x: ir.Value, outputs: tuple[str, ...], sizes: tuple[int, ...]
    ) -> list[ir.Value]:
        """Split ``[tokens, width]`` into columns of the given sizes."""
        b = self.b
        return b.multi_op(
            "Split",
            f"{name}/{role}",
            [x, b.ints(*sizes)],
            [
                (f"{name}/{output}", b.activations, ["tokens", size])
                for output, size in zip(outputs, sizes, strict=True)
            ],
            axis=1,
        )

    def head(self, normed: ir.Value, sample_rows: ir.Value, tensor: str) -> None:
        """Make the logits of the tokens ``sample_rows`` the graph's first output.

        ``normed`` ``[tokens, H]`` is the last norm, called ``final_norm``.
        """
        b, source = self.b, self.matrix(tensor)
        sampled = b.op(
            "Gather",
            "sampled",
            [normed, sample_rows],
            ["samples", source.width],
            dtype=b.activations,
            axis=0,
        )
        logits = self.linear(
            "lm_head", "lm_head", sampled, source, rows="samples", activation="final_norm"
        )
        logits = b.cast(logits, "lm_head/logits", ["samples", source.rows], FLOAT)
        b.output(logits, "logits")
