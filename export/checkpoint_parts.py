"""Graph parts whose weights come from one checkpoint and whose precision from one recipe."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtcoder.checkpoint import Checkpoint
from trtcoder.config import ModelConfig
from trtcoder.export.builder import GraphBuilder
from trtcoder.export.layers import linear, parameter
from trtcoder.export.recipe import Recipe
from trtcoder.export.sources import Matrix, Piece

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True, slots=True)
class CheckpointParts:
    """Makes parts of ``b``'s graph."""

    b: GraphBuilder
    checkpoint: Checkpoint
    recipe: Recipe

    @property
    def config(self) -> ModelConfig:
        """The checkpoint's configuration."""
        return self.checkpoint.config

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

    def linear(self, name: str, x: ir.Value, source: Matrix) -> ir.Value:
        """Multiply with a matrix that the recipe stores: ``[tokens, rows of source]``."""
        return linear(self.b, name, x, source, self.recipe.linear, self.recipe.accuracy_level)

    def matrix(self, *pieces: str | Piece) -> Matrix:
        """Return checkpoint tensors, or rows of them, stacked."""
        return Matrix(
            self.checkpoint,
            tuple(Piece(piece) if isinstance(piece, str) else piece for piece in pieces),
        )

    def vector(self, name: str, tensor: str) -> ir.Value:
        """Return a tensor as it is, in float32."""
        return parameter(
            self.b,
            name,
            self.checkpoint.shape(tensor),
            (tensor,),
            lambda: self.checkpoint.read(tensor),
        )
