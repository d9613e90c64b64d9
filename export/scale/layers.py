"""What each layer of an engine stores, reads in a step, and computes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.precision.sizing import EXACT
from trtcoder.export.recipe import Recipe
from trtcoder.export.targets.registry import find_target
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

_LAYER = re.compile(r"layers\.(\d+)/")
_EXPERTS = ("experts_gate_up", "experts_down")
# Bytes of one value of the latent cache.
CACHE_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1, "int8": 1}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, or what stands before or behind all of them.

    Attributes:
        stored: bytes of its weights.
        expert_bytes: of these, bytes of the routed experts.
        table_bytes: of these, bytes of a table of which a token reads one row.
        values: weights that every token is multiplied with, without the routed experts'.
        expert_values: weights of all routed experts.
        chosen: the share of the routed experts that a token takes, top-k of all.
        cache_bytes: that the cache of one token takes.
        attention: multiplications of a token with one row of the cache.
    """

    stored: int = 0
    expert_bytes: int = 0
    table_bytes: int = 0
    values: int = 0
    expert_values: int = 0
    chosen: float = 0.0
    cache_bytes: int = 0
    attention: int = 0

    def read_bytes(self, tokens: int) -> float:
        """Return the bytes of weights that a step of ``tokens`` tokens reads.

        An expert that several tokens take is read once: of independent tokens, each of which takes
        the share k/E of all experts, 1 - (1 - k/E)^tokens of the experts are taken by some.
        """
        touched = 1 - (1 - self.chosen) ** tokens
        always = self.stored - self.expert_bytes - self.table_bytes
        return always + touched * self.expert_bytes

    def operations(self, tokens: int, rows: int) -> float:
        """Return the floating-point operations of ``tokens`` tokens that see ``rows`` rows each."""
        weights = self.values + self.chosen * self.expert_values
        return 2.0 * tokens * (weights + self.attention * rows)


@dataclass(frozen=True, slots=True)
class Layers:
    """A model as stages see it.

    Attributes:
        name: the model's.
        embedding: stands on the first stage.
        layers: in their order.
        head: the last norm and the output matrix, on the last stage.
        hidden: width of what one stage hands to the next.
        workspace_width: float32 values that a token takes inside a layer, at most.
    """

    name: str
    embedding: Layer
    layers: tuple[Layer, ...]
    head: Layer
    hidden: int
    workspace_width: int

    @property
    def stored(self) -> int:
        """Bytes of all weights."""
        return sum(each.stored for each in (self.embedding, *self.layers, self.head))

    def of_stage(self, layers: range) -> list[Layer]:
        """Return what a stage of these layers holds, the embedding and the head where they go."""
        first = [self.embedding] if layers.start == 0 else []
        last = [self.head] if layers.stop == len(self.layers) else []
        return [*first, *self.layers[layers.start : layers.stop], *last]


def read_layers(source: Checkpoint, recipe: Recipe, cache: str, target: str = "onnx") -> Layers:
    """Return the layers of an engine of ``source``, to the byte as it would be built.

    Layers of one kind are alike, so an engine of the first layers up to the first with experts is
    planned, which takes a moment where the whole one takes ten seconds.

    Args:
        source: may be described only.
        recipe: the precision of the weights; the same in all layers.
        cache: of `CACHE_BYTES`.
        target: whose plan is made.

    Raises:
        BuildError: schemes of single layers, or a cache of another precision.
        ConfigError: not DeepSeek-V2.
    """
    config = DeepseekV2Config.of(source.config)
    if cache not in CACHE_BYTES:
        raise BuildError(f"cache: {cache!r} is unknown; use one of {', '.join(CACHE_BYTES)}")
    if any("@" in kind for kind in recipe.schemes):
        raise BuildError("stages are planned of layers that are stored alike; use one precision")
    kinds = [config.is_moe_layer(layer) for layer in range(config.num_hidden_layers)]
    planned = kinds.index(True) + 1 if True in kinds else 1
    plan = find_target(target).plan(_first_layers(source, config, planned), recipe).weights
    cached = config.cache_width * CACHE_BYTES[cache]
    read = config.kv_lora_rank + config.cache_width
    own = [
        dataclasses.replace(
            _layer(plan, str(layer), config),
            cache_bytes=cached,
            attention=config.num_attention_heads * read,
        )
        for layer in range(planned)
    ]
    inner = max(
        2 * config.intermediate_size,
        2 * config.moe_intermediate_size * (config.num_experts_per_tok + config.n_shared_experts),
    )
    return Layers(
        source.name,
        _layer(plan, "embed_tokens", config),
        tuple(own[min(layer, planned - 1)] for layer in range(config.num_hidden_layers)),
        _layer(plan, "", config),
        config.hidden_size,
        # The residual and its norm, the heads' queries and mixed latents, a layer's inner width.
        2 * config.hidden_size + config.num_attention_heads * read + inner,
    )


def _first_layers(source: Checkpoint, config: DeepseekV2Config, count: int) -> Checkpoint:
    """Return a checkpoint of which only the first ``count`` layers are."""
    raw = {**config.raw, "num_hidden_layers": count}
    short = dataclasses.replace(config, num_hidden_layers=count, raw=raw)
    tensors = {name: source.tensors[name] for name in short.expected_tensors()}
    return Checkpoint(source.folder, short, tensors)


def _layer(plan: WeightPlan, part: str, config: DeepseekV2Config) -> Layer:
    """Return layer ``part``, the table ``embed_tokens``, or with an empty name the rest."""
    weights = [each for each in plan.declared.values() if _part(each.name) == part]
    matrices = [each for name, each in plan.matrices.items() if _part(name) == part]
    stored = sum(each.nbytes for each in weights)
    exact = sum(math.prod(each.shape) for each in weights if each.kind in EXACT)
    sizes = [(each.kind, each.source.rows * each.source.width) for each in matrices]
    is_table = part == "embed_tokens"
    return Layer(
        stored=stored,
        expert_bytes=sum(each.nbytes for each in weights if each.kind in _EXPERTS),
        table_bytes=stored if is_table else 0,
        values=0 if is_table else exact + _sum(sizes, experts=False),
        expert_values=_sum(sizes, experts=True),
        chosen=config.num_experts_per_tok / config.n_routed_experts
        if config.n_routed_experts
        else 0.0,
    )


def _sum(sizes: Iterable[tuple[str, int]], *, experts: bool) -> int:
    return sum(size for kind, size in sizes if (kind in _EXPERTS) is experts)


def _part(name: str) -> str:
    found = _LAYER.match(name)
    if found is not None:
        return found.group(1)
    return "embed_tokens" if name.startswith("embed_tokens/") else ""
