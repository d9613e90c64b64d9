"""How fast a row of `benchmarks.cpu` can be at most on a machine: by memory, and by arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu_work import Work
from benchmarks.machine_peaks import Peaks
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.checkpoint.shard import Stored
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.model.registry import read_config
from trtcoder.testing.random_checkpoint import LITE_CONFIG

# Tokens of a prompt that run in one step: weights are read once for them.
CHUNK = 512


@dataclass(frozen=True, slots=True)
class Needs:
    """What a step must read and compute.

    Attributes:
        nbytes: of weights and cache.
        operations: products and sums.
        tokens: that it makes, or takes in.
    """

    nbytes: float
    operations: float
    tokens: int

    def limit(self, peaks: Peaks) -> tuple[float, str]:
        """Return the most tokens a second, and by what: memory or arithmetic."""
        memory, arithmetic = self.nbytes / peaks.read, self.operations / peaks.best_int8
        slowest = max(memory, arithmetic)
        return self.tokens / slowest, "memory" if memory == slowest else "arithmetic"


class LiteNeeds:
    """What steps of our int4 engine of a Lite need, by the shapes of its weights."""

    def __init__(self, layers: int) -> None:
        """Plan the engine; no weight is there."""
        config = read_config(LITE_CONFIG | {"num_hidden_layers": layers}, "config")
        tensors = {
            name: Stored(None, "BF16", shape, 0, 2 * math.prod(shape))
            for name, shape in config.expected_tensors().items()
        }
        plan = OnnxRuntime().plan(Checkpoint(Path("lite"), config, tensors), preset("int4"))
        self.config = DeepseekV2Config.of(config)
        self.cache_bytes = plan.cache_bytes
        self.weights: dict[str, int] = {}
        for weight in plan.weights.declared.values():
            self.weights[weight.kind] = self.weights.get(weight.kind, 0) + weight.nbytes

    def of(self, work: Work) -> Needs:
        """Return what a step of a row needs; a prompt is one step."""
        if work.sequences:
            context = work.sequences * (work.tokens + 1)
            nbytes = self._weight_bytes(work.sequences) + context * self.cache_bytes
            operations = work.sequences * self._operations(work.tokens, with_head=True)
            return Needs(nbytes, operations, work.sequences)
        chunks = -(-work.tokens // CHUNK)
        # The later chunks read what the earlier ones wrote.
        context = sum(chunk * CHUNK for chunk in range(chunks))
        nbytes = chunks * self._weight_bytes(CHUNK) + context * self.cache_bytes
        operations = work.tokens * self._operations(work.tokens / 2, with_head=False)
        return Needs(nbytes, operations, work.tokens)

    def _weight_bytes(self, tokens: int) -> float:
        """Return the bytes that are read for so many tokens, whose experts are drawn at random."""
        share = 1 - (1 - self.config.num_experts_per_tok / self.config.n_routed_experts) ** tokens
        return sum(
            nbytes * (share if kind.startswith("experts_") else 1)
            for kind, nbytes in self.weights.items()
            if kind != "embedding"
        )

    def _operations(self, context: float, *, with_head: bool) -> float:
        """Return the products and sums of one token behind ``context`` others."""
        c = self.config
        heads, latent, rope = c.num_attention_heads, c.kv_lora_rank, c.qk_rope_head_dim
        attention: float = c.hidden_size * (heads * c.qk_head_dim + latent + rope)
        attention += heads * latent * (c.qk_nope_head_dim + c.v_head_dim)
        attention += heads * c.v_head_dim * c.hidden_size
        attention += heads * (2 * latent + rope) * context
        dense = c.first_k_dense_replace
        experts = c.num_experts_per_tok + c.n_shared_experts
        mixture = c.hidden_size * (3 * c.moe_intermediate_size * experts + c.n_routed_experts)
        products = c.num_hidden_layers * attention + (c.num_hidden_layers - dense) * mixture
        products += dense * 3 * c.hidden_size * c.intermediate_size
        products += c.hidden_size * c.vocab_size if with_head else 0
        return 2 * products


def shares(layers: int, speeds: dict[str, float], peaks: Peaks) -> dict[str, dict[str, Any]]:
    """Return for each row its limit in tokens a second, what sets it, and the share reached."""
    needs = LiteNeeds(layers)
    found = {}
    for name, speed in speeds.items():
        limit, by = needs.of(Work.read(name)).limit(peaks)
        found[name] = {"limit": round(limit, 2), "by": by, "share": round(speed / limit, 3)}
    return found
