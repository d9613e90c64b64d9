"""Writes checkpoints of any DeepSeek-V2 shape with random weights, for tests and benchmarks.

The real thing in every respect but the numbers: config.json, sharded bf16 safetensors with an
index, tokenizer. A tensor's values depend on the seed and its name only, and are written in
slices, so that a checkpoint of any size takes little memory.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.weight_files import INDEX
from trtcoder.errors import BuildError, TrtcoderError
from trtcoder.model.architecture import ModelConfig
from trtcoder.model.registry import read_config
from trtcoder.progress import byte_progress

SPECIAL_TOKENS = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
)
# As DeepSeek-Coder-V2-Lite-Instruct's tokenizer_config.json has it.
CHAT_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
    "{% endif %}{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
    "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ 'Assistant:' }}{% endif %}"
)

# config.json of DeepSeek-Coder-V2-Lite-Instruct.
LITE_CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV2Config",
        "AutoModel": "modeling_deepseek.DeepseekV2Model",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM",
    },
    "aux_loss_alpha": 0.001,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 10944,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "pretraining_tp": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.39.3",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 102400,
}

# What differs in DeepSeek-Coder-V2-Instruct, the 236B model.
FULL_CONFIG: dict[str, Any] = LITE_CONFIG | {
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_group": 8,
    "n_routed_experts": 160,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "routed_scaling_factor": 16.0,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
}
PRESETS = {"lite": LITE_CONFIG, "236b": FULL_CONFIG}

_SLICE = 1 << 24


def tiny_config(**overrides: Any) -> dict[str, Any]:
    """Return a complete architecture in miniature, for tests.

    Head widths differ from each other, and the dense layer's divides by 64 but not by 128.
    """
    return copy.deepcopy(LITE_CONFIG) | {
        "bos_token_id": 256,
        "eos_token_id": 257,
        "hidden_size": 128,
        "intermediate_size": 192,
        "kv_lora_rank": 64,
        "moe_intermediate_size": 64,
        "n_routed_experts": 16,
        "num_attention_heads": 4,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "qk_nope_head_dim": 48,
        "qk_rope_head_dim": 32,
        "v_head_dim": 40,
        "vocab_size": 512,
        **overrides,
    }


def tiny_grouped_config(**overrides: Any) -> dict[str, Any]:
    """Return the 236B model's architecture in miniature: q_lora_rank, group-limited routing."""
    grouped = {
        "q_lora_rank": 96,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 16.0,
    }
    return tiny_config(**(grouped | overrides))


def write_random_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    shard_bytes: int = 5_000_000_000,
    on_tensor: Callable[[int, str], None] | None = None,
) -> Path:
    """Write a checkpoint of ``config``'s shape to ``folder``, which must not exist.

    Shards hold at most ``shard_bytes`` bytes of tensors, or one tensor. The folder appears whole.

    Raises:
        ConfigError: ``config`` is not one that trtcoder reads.
        BuildError: the folder exists, or the vocabulary has no room for the tokenizer.
    """
    parsed = read_config(config, "config")
    if folder.exists():
        raise BuildError(f"{folder}: exists; choose another folder or remove it")
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        _write_json(partial / "config.json", config)
        _write_tokenizer(partial, parsed)
        _write_shards(partial, parsed, seed, shard_bytes, on_tensor)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def values(
    name: str, shape: tuple[int, ...], seed: int, spread: float
) -> Iterator[NDArray[np.uint16]]:
    """Return a tensor's bf16 bits, slice by slice.

    Norm weights lie around 1; a matrix is normal with deviation ``spread / sqrt(columns)``. The
    random numbers of a slice of 16M values are drawn once and rotated for each further slice:
    drawing all of a 31 GB checkpoint anew would take most of the time.
    """
    count = math.prod(shape)
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "little")))
    drawn = rng.standard_normal(min(count, _SLICE), dtype=np.float32)
    if len(shape) == 1:
        drawn = 1 + 0.1 * drawn
    else:
        drawn *= spread / math.sqrt(shape[1])
    # Rounds to nearest, ties to even, as a cast to bfloat16 does.
    bits = drawn.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    for index, start in enumerate(range(0, count, _SLICE)):
        yield np.roll(rounded, 7919 * index)[: min(_SLICE, count - start)]


def _spread(name: str) -> float:
    """Return the weights' deviation times sqrt(fan-in): branches are small beside the stream."""
    if name.endswith("embed_tokens.weight"):
        return 16.0
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return 0.5
    if name.endswith("mlp.gate.weight"):
        return 2.0
    return 1.0


def _write_shards(
    folder: Path,
    config: ModelConfig,
    seed: int,
    shard_bytes: int,
    on_tensor: Callable[[int, str], None] | None,
) -> None:
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = shard_bytes
    for name, shape in config.expected_tensors().items():
        size = 2 * math.prod(shape)
        if size > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = shape
        room -= size
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        # Six digits after "of", as in the published checkpoints.
        file = f"model-{number:05d}-of-{len(shards):06d}.safetensors"
        _write_shard(folder / file, shard, seed, on_tensor)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(2 * math.prod(shape) for shard in shards for shape in shard.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_shard(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    on_tensor: Callable[[int, str], None] | None,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            for bits in values(name, shape, seed, _spread(name)):
                file.write(np.ascontiguousarray(bits).data)
            if on_tensor is not None:
                on_tensor(2 * math.prod(shape), name)


def _write_tokenizer(folder: Path, config: ModelConfig) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = config.bos_token_id if config.bos_token_id is not None else len(alphabet)
    if first < len(alphabet) or first + len(SPECIAL_TOKENS) > config.vocab_size:
        raise BuildError(
            f"vocab_size {config.vocab_size} and bos_token_id {first} leave no room for "
            f"{len(alphabet)} bytes and {len(SPECIAL_TOKENS)} special tokens"
        )
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    # Fillers, which text never gives, bring the special tokens to the model's ids.
    vocabulary |= {f"<unused {index}>": index for index in range(len(alphabet), first)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token) for token in SPECIAL_TOKENS[:2]])
    tokenizer.add_tokens([AddedToken(token) for token in SPECIAL_TOKENS[2:]])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[1],
        "tokenizer_class": "LlamaTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": list(config.eos_token_ids)}
    _write_json(folder / "generation_config.json", ids)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--preset", type=click.Choice(list(PRESETS)), default="lite", show_default=True)
@click.option("--layers", type=int, help="Number of layers instead of the model's.")
@click.option("--experts", type=int, help="Routed experts instead of the model's.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(folder: Path, preset: str, layers: int | None, experts: int | None, seed: int) -> None:
    """Write a checkpoint of a published model's shape with random weights."""
    config = dict(PRESETS[preset])
    if layers is not None:
        config["num_hidden_layers"] = layers
    if experts is not None:
        config["n_routed_experts"] = experts
    try:
        shapes = read_config(config, "config").expected_tensors()
        total = 2 * sum(math.prod(shape) for shape in shapes.values())
        with byte_progress("writing", total) as advance:
            write_random_checkpoint(folder, config, seed=seed, on_tensor=advance)
    except TrtcoderError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
