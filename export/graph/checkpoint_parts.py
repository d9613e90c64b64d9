"""Graph parts whose weights come from one checkpoint and whose precision from one recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtcoder.calib.storage.float8 import Float8
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.graph.float8 import layers as float8_layers
from trtcoder.export.graph.layers import linear
from trtcoder.export.recipe import Recipe
from trtcoder.export.weights.convert import declare_parameter
from trtcoder.export.weights.matrix import Matrix, Piece
from trtcoder.model.config import ModelConfig

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True, slots=True)
class CheckpointParts:
    """Makes parts of ``b``'s graph, in one decoder layer or (None) outside of them."""

    b: GraphBuilder
    checkpoint: Checkpoint
    recipe: Recipe
    layer: int | None = None

    @property
    def config(self) -> ModelConfig:
        """The checkpoint's configuration."""
        return self.checkpoint.config

    def in_layer(self, layer: int | None) -> CheckpointParts:
        """Return what makes the parts of another layer."""
        return dataclasses.replace(self, layer=layer)

    def split(
        self, name: str, role: str, x: ir.Value, outputs: tuple[str, ...], sizes: tuple[int, ...]
    ) -> list[ir.Value]:
        """Split ``[tokens, width]`` into columns of the given sizes."""
        return self.b.multi_op(
            "Split",
            f"{name}/{role}",
            [x, self.b.ints(*sizes)],
            [
                (f"{name}/{output}", FLOAT, ["tokens", size])
                for output, size in zip(outputs, sizes, strict=True)
            ],
            axis=1,
        )

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
        scheme = self.recipe.scheme(kind, self.layer)
        if isinstance(scheme, Float8):
            return float8_layers.linear(self.b, name, kind, x, source, scheme, rows, activation)
        level = self.recipe.accuracy_level
        return linear(self.b, name, kind, x, source, scheme, level, rows, activation)

    def matrix(self, *pieces: str | Piece) -> Matrix:
        """Return checkpoint tensors, or rows of them, stacked."""
        return Matrix(
            self.checkpoint,
            tuple(Piece(piece) if isinstance(piece, str) else piece for piece in pieces),
        )

    def norm_weight(self, name: str, tensor: str) -> ir.Value:
        """Return the weight of the norm ``name``, whose output is the activation ``name``."""

        def read() -> NDArray[np.float32]:
            values = self.checkpoint.read(tensor)
            scale = self.b.plan.quantizer.input_scale(name)
            return values if scale is None else values / scale

        return self.parameter(
            f"{name}/weight", "norms", self.checkpoint.shape(tensor), tensor, read
        )

    def parameter(
        self,
        name: str,
        kind: str,
        shape: tuple[int, ...],
        tensor: str,
        read: Callable[[], NDArray[np.float32]],
    ) -> ir.Value:
        """Return what ``read`` makes of a tensor, stored in the tensor's own type, as float32."""
        dtype = self.checkpoint.dtype(tensor)
        return self.b.weight(
            declare_parameter(self.b.plan, name, kind, shape, (tensor,), dtype, read)
        )
