"""What the target ``onnx`` builds for CUDA, and what its kernels refuse."""

from __future__ import annotations

import onnx_ir as ir

from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.graph.registry import ModelGraph, declare_cuda_graph
from trtcoder.export.recipe import SCHEMED, Recipe, RecipeOptions

# In what layers pass values on; the first is the default, because it is the checkpoints' type and
# nothing overflows in it.
ACTIVATIONS = {"bf16": ir.DataType.BFLOAT16, "fp16": ir.DataType.FLOAT16}
_BITS = {"int4": 4, "int8": 8}
# Experts in blocks of 16 are refused by ONNX Runtime's CUDA provider, 1.31.
_BLOCKS = (32, 64, 128)
# What the width of an expert must be a multiple of, there.
_EXPERT_WIDTH = 64


def cuda_recipe(options: RecipeOptions) -> Recipe:
    """Return int4 or int8 in blocks, with activations in half precision.

    Raises:
        BuildError: CUDA's kernels do not take it.
    """
    options.refuse_absorbed("--provider cuda")
    weights = options.weights or "int4"
    if weights not in _BITS:
        raise BuildError(
            f"--weights {weights}: --provider cuda stores int4 or int8; CUDA's fused experts take "
            "integers of one width"
        )
    if options.fp8_scales is not None:
        raise BuildError("--fp8-scales is for --weights fp8, not for --provider cuda; leave it out")
    activations = options.activations or next(iter(ACTIVATIONS))
    if activations not in ACTIVATIONS:
        raise BuildError(
            f"--activations {activations}: is for --weights fp8; with --provider cuda use one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    block = 32 if options.block_size is None else options.block_size
    if block not in _BLOCKS:
        raise BuildError(
            f"--block-size {block}: CUDA's fused experts take blocks of "
            f"{', '.join(map(str, _BLOCKS))}"
        )
    cache = options.cache or activations
    if cache not in (activations, "int8", "fp8"):
        raise BuildError(
            f"--cache {cache}: on CUDA, with --activations {activations}, the cache is "
            f"{activations}, int8 or fp8"
        )
    # bfloat16 must hold the scales where the kernels take them so.
    narrow = activations == "bf16"
    scheme = Scheme(_BITS[weights], block, options.symmetric, bfloat16_scales=narrow)
    table = Scheme(8, block, options.symmetric, bfloat16_scales=narrow)
    schemes = dict.fromkeys(SCHEMED, scheme) | {"embedding": table}
    return Recipe(weights, schemes, cache, 0, activations, "cuda")


def declare_on_cuda(
    checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
) -> ModelGraph:
    """Declare a checkpoint's graph for CUDA and its twin.

    Raises:
        BuildError: CUDA's kernels do not take the model's widths.
    """
    activations = ACTIVATIONS[recipe.activations or ""]
    graph = declare_cuda_graph(checkpoint, recipe, activations, quantizer)
    for node in graph.builder.nodes:
        if node.op_type == "QMoE":
            _check_experts(node)
    return graph


def _check_experts(node: ir.Node) -> None:
    """Raise BuildError unless CUDA's fused experts take the width of a node's experts."""
    stack = node.inputs[2]
    rows = 0 if stack is None or stack.shape is None else stack.shape[1]
    width = rows // 2 if isinstance(rows, int) else 0
    if width % _EXPERT_WIDTH:
        raise BuildError(
            f"{node.name}: experts are {width} wide, and CUDA's fused experts want a multiple of "
            f"{_EXPERT_WIDTH}; use --block-size {_EXPERT_WIDTH}, which pads them"
        )
