"""Which graph a checkpoint has: `model_type` of its config.json says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtcoder.bundle.onnx import CacheInfo
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import GraphBuilder
from trtcoder.export.graph.deepseek_v2 import declare_deepseek_v2
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.recipe import Recipe
from trtcoder.export.weights.plan import WeightPlan

# Declares inputs, nodes, weights and outputs, and returns the caches among the inputs.
DeclareGraph = Callable[[ModelBuilder], tuple[CacheInfo, ...]]
GRAPHS: dict[str, DeclareGraph] = {"deepseek_v2": declare_deepseek_v2}


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A model's graph, declared; no weight has been read."""

    builder: GraphBuilder
    caches: tuple[CacheInfo, ...]


def declare_graph(
    checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
) -> ModelGraph:
    """Return a checkpoint's graph, stored by ``recipe`` with the values that ``quantizer`` chooses.

    Raises:
        BuildError: there is no graph of this architecture, or none with this recipe.
    """
    model_type = str(checkpoint.config.raw.get("model_type"))
    if model_type not in GRAPHS:
        raise BuildError(
            f"{checkpoint.folder}: there is no graph for model_type {model_type!r}, only for "
            f"{', '.join(sorted(GRAPHS))}"
        )
    builder = GraphBuilder(model_type, WeightPlan(quantizer))
    caches = GRAPHS[model_type](ModelBuilder(builder, checkpoint, recipe))
    return ModelGraph(builder, caches)
