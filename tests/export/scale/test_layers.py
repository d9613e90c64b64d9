"""What stages are planned of agrees with the engine that a build would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.recipe import preset
from trtcoder.export.scale.layers import Layers, read_layers
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config


def described(folder: Path, config: dict[str, Any]) -> Checkpoint:
    (folder / "config.json").write_text(json.dumps(config))
    return Checkpoint.describe(folder)


@pytest.mark.parametrize("weights", ["int4", "int8", "fp32", "fp8"])
@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_grouped_config(num_hidden_layers=5),
        tiny_config(num_hidden_layers=4, first_k_dense_replace=2),
        tiny_config(num_hidden_layers=2, first_k_dense_replace=2),
    ],
    ids=["lite", "236b", "two dense layers", "dense only"],
)
def test_the_first_layers_tell_the_bytes_of_all(
    config: dict[str, Any], weights: str, tmp_path: Path
) -> None:
    source = described(tmp_path, config)
    layers = read_layers(source, preset(weights), "bf16")
    whole = OnnxRuntime().plan(source, preset(weights)).weights.declared.values()
    assert layers.stored == sum(weight.nbytes for weight in whole)
    for number, layer in enumerate(layers.layers):
        own = [each for each in whole if each.name.startswith(f"layers.{number}/")]
        assert layer.stored == sum(each.nbytes for each in own)
    assert len(layers.layers) == config["num_hidden_layers"]


def test_a_token_is_multiplied_with_the_weights_that_the_architecture_activates(
    tmp_path: Path,
) -> None:
    config = tiny_config()
    layers = read_layers(described(tmp_path, config), preset("fp32"), "fp32")
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    expert = 3 * hidden * inner
    layer = layers.layers[-1]
    assert layer.expert_values == config["n_routed_experts"] * expert
    assert layer.chosen * layer.expert_values == config["num_experts_per_tok"] * expert
    heads, nope = config["num_attention_heads"], config["qk_nope_head_dim"]
    rope, value, latent = config["qk_rope_head_dim"], config["v_head_dim"], config["kv_lora_rank"]
    attention = hidden * heads * (nope + rope) + hidden * (latent + rope)
    attention += heads * latent * (nope + value) + heads * value * hidden
    shared = config["n_shared_experts"] * expert
    router, norms = hidden * config["n_routed_experts"], 2 * hidden + latent
    assert layer.values == attention + shared + router + norms
    assert layers.head.values == hidden * config["vocab_size"] + hidden
    assert layer.cache_bytes == 4 * (latent + rope)


def test_experts_that_several_tokens_take_are_read_once(tmp_path: Path) -> None:
    config = tiny_config()
    layer = read_layers(described(tmp_path, config), preset("int4"), "bf16").layers[-1]
    draws = np.random.default_rng(0)
    for tokens in (1, 4, 16):
        taken = [
            {
                int(expert)
                for _ in range(tokens)
                for expert in draws.choice(
                    config["n_routed_experts"], config["num_experts_per_tok"], replace=False
                )
            }
            for _ in range(400)
        ]
        share = np.mean([len(each) for each in taken]) / config["n_routed_experts"]
        dense = layer.stored - layer.expert_bytes
        assert layer.read_bytes(tokens) == pytest.approx(
            dense + share * layer.expert_bytes, rel=0.02
        )


def test_a_table_is_stored_and_not_read_whole(tmp_path: Path) -> None:
    layers: Layers = read_layers(described(tmp_path, tiny_config()), preset("int4"), "bf16")
    assert layers.embedding.stored > 0
    assert layers.embedding.read_bytes(8) == 0
    assert layers.embedding.operations(8, 100) == 0


def test_an_unknown_cache_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="'fp16' is unknown; use one of fp32, bf16, fp8, int8"):
        read_layers(described(tmp_path, tiny_config()), preset("int4"), "fp16")
