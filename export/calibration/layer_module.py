"""One decoder layer of the reference, whose weights can be replaced by what an engine stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.export.weights.matrix import Matrix

if TYPE_CHECKING:
    import torch


class LayerModule:
    """transformers' module of one layer, addressed by the checkpoint's tensor names."""

    def __init__(self, module: Any, layer: int) -> None:
        """Hold ``module`` (see `TransformersReference.load_layer`) of decoder layer ``layer``."""
        self.module = module
        self.layer = layer

    def assign(self, source: Matrix, start: int, restored: NDArray[np.float32]) -> None:
        """Put rows ``start`` and on of a matrix, ``[n, K]``, where the checkpoint has them."""
        import torch

        for piece, rows, place in source.parts(start, start + len(restored)):
            # Each thread has its own mode, and a quantizer works in several.
            with torch.inference_mode():
                # A view with NumPy's indexing.
                target = self.parameter(piece.tensor).detach().numpy()
                if piece.columns is None:
                    target[piece.chosen(rows)] = restored[place]
                else:
                    indices = np.arange(len(target))[piece.chosen(rows)]
                    target[np.ix_(indices, piece.columns)] = restored[place]

    def parameter(self, tensor: str) -> torch.Tensor:
        """Return the part of the module that holds a checkpoint tensor."""
        path = tensor.removeprefix(f"model.layers.{self.layer}.")
        head, found, rest = path.partition("mlp.experts.")
        parameter: torch.Tensor
        if head or not found:
            parameter = self.module.get_parameter(path)
            return parameter
        expert, role, _ = rest.split(".")
        experts = self.module.mlp.experts
        if role == "down_proj":
            parameter = experts.down_proj[int(expert)]
            return parameter
        gate, up = experts.gate_up_proj[int(expert)].chunk(2)
        parameter = gate if role == "gate_proj" else up
        return parameter
