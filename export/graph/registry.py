"""Which graph a checkpoint has: `model_type` of its config.json says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from trtcoder.bundle.onnx import CacheInfo
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import CudaForm, GraphBuilder
from trtcoder.export.graph.deepseek_v2 import declare_deepseek_v2
from trtcoder.export.graph.kernels import PANEL_OPERATORS
from trtcoder.export.graph.model_builder import ModelBuilder
from trtcoder.export.recipe import Recipe
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.plugins.library import DOMAIN

# Declares inputs, nodes, weights and outputs, and returns the caches among the inputs.
DeclareGraph = Callable[[ModelBuilder], tuple[CacheInfo, ...]]
# Of ONNX Runtime's own operators those that multiply with weights or attend.
_PRODUCTS = ("Gemm", "MatMul", "FusedMatMul", "MatMulNBits", "MoE", "QMoE")
GRAPHS: dict[str, DeclareGraph] = {"deepseek_v2": declare_deepseek_v2}


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A model's graph, declared; no weight has been read.

    Attributes:
        builder: the graph in ONNX Runtime's own operators, and the plan of the weights.
        caches: the caches among its inputs.
        kernels: the graph in our operators, over the same weights and with the same inputs; None
            where an architecture has no node of them.
        twin: of a graph for CUDA, its twin for the CPU, over the same weights.
    """

    builder: GraphBuilder
    caches: tuple[CacheInfo, ...]
    kernels: GraphBuilder | None
    twin: GraphBuilder | None = None


def declare_graph(
    checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
) -> ModelGraph:
    """Return a checkpoint's graph, stored by ``recipe`` with the values that ``quantizer`` chooses.

    Raises:
        BuildError: there is no graph of this architecture, or none with this recipe.
    """
    model_type = _known_type(checkpoint)
    builder, kernels = (
        GraphBuilder(model_type, WeightPlan(quantizer), uses_kernels=uses_kernels)
        for uses_kernels in (False, True)
    )
    caches, same = (
        GRAPHS[model_type](ModelBuilder(b, checkpoint, recipe)) for b in (builder, kernels)
    )
    if not any(node.domain == DOMAIN for node in kernels.nodes):
        return ModelGraph(builder, caches, None)
    # What only ONNX Runtime's operators need, such as tables, our kernels leave out.
    if not kernels.plan.declared.items() <= builder.plan.declared.items() or same != caches:
        raise BuildError(f"{model_type}: its two graphs do not take the same weights and caches")
    return ModelGraph(builder, caches, kernels)


def declare_cuda_graph(
    checkpoint: Checkpoint,
    recipe: Recipe,
    activations: ir.DataType,
    quantizer: Quantizer | None = None,
) -> ModelGraph:
    """Return a checkpoint's graph for CUDA, and its twin for the CPU; see `declare_graph`."""
    model_type = _known_type(checkpoint)
    builder, twin = (
        GraphBuilder(model_type, WeightPlan(quantizer), cuda=CudaForm(activations, is_twin))
        for is_twin in (False, True)
    )
    caches, _ = (GRAPHS[model_type](ModelBuilder(b, checkpoint, recipe)) for b in (builder, twin))
    if twin.plan.declared != builder.plan.declared:
        raise BuildError(
            f"{model_type}: a graph for CUDA and its twin do not take the same weights"
        )
    return ModelGraph(builder, caches, None, twin)


def _known_type(checkpoint: Checkpoint) -> str:
    model_type = str(checkpoint.config.raw.get("model_type"))
    if model_type not in GRAPHS:
        raise BuildError(
            f"{checkpoint.folder}: there is no graph for model_type {model_type!r}, only for "
            f"{', '.join(sorted(GRAPHS))}"
        )
    return model_type


def reads_panels(b: GraphBuilder) -> bool:
    """Return whether our own operators multiply with some of a graph's weights."""
    return any(node.domain == DOMAIN and node.op_type in PANEL_OPERATORS for node in b.nodes)


def runs_stock_products(b: GraphBuilder) -> bool:
    """Return whether ONNX Runtime's own operators multiply some of a graph's weights."""
    return any(node.op_type in _PRODUCTS for node in b.nodes)
