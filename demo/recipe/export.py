"""Writes the trained model as a Hugging Face checkpoint, as DeepSeek publishes its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from demo.recipe import model as shape
from demo.recipe.tokenizer import BOS, EOS, load_tokenizer, write_tokenizer
from demo.recipe.train import BALANCE_WEIGHT, STATE
from trtcoder.testing.random_checkpoint import LITE_CONFIG

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoint"
SHARD_BYTES = 10_000_000


def config() -> dict[str, Any]:
    """Return config.json: DeepSeek-Coder-V2-Lite's, with this model's name, ids and sizes."""
    tokenizer = load_tokenizer()
    return LITE_CONFIG | {
        "_name_or_path": "trtcoder-demo",
        "aux_loss_alpha": BALANCE_WEIGHT,
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": tokenizer.token_to_id(EOS),
        "hidden_size": shape.HIDDEN,
        "intermediate_size": shape.DENSE,
        "kv_lora_rank": shape.LATENT,
        "moe_intermediate_size": shape.INNER,
        "n_routed_experts": shape.EXPERTS,
        "n_shared_experts": shape.SHARED,
        "num_attention_heads": shape.HEADS,
        "num_experts_per_tok": shape.TOP_K,
        "num_hidden_layers": shape.LAYERS,
        "num_key_value_heads": shape.HEADS,
        "qk_nope_head_dim": shape.NOPE,
        "qk_rope_head_dim": shape.ROPE,
        "rms_norm_eps": shape.EPSILON,
        "rope_scaling": {
            **LITE_CONFIG["rope_scaling"],
            "beta_fast": shape.BETA_FAST,
            "beta_slow": shape.BETA_SLOW,
            "factor": round(shape.FACTOR),
            "mscale": shape.MSCALE,
            "mscale_all_dim": shape.MSCALE,
            "original_max_position_embeddings": shape.ORIGINAL,
        },
        "rope_theta": round(shape.THETA),
        "seq_aux": False,
        "v_head_dim": shape.VALUE,
        "vocab_size": shape.VOCAB,
    }


def published_tensors(trained: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return bf16 tensors under DeepSeek's names, experts one by one."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in trained.items():
        prefix, _, role = name.rpartition(".")
        full = name if name.startswith("lm_head") else f"model.{name}"
        if role == "gate_up":
            for expert, matrix in enumerate(weight.mT):
                gate, up = matrix.chunk(2)
                found[f"model.{prefix}.experts.{expert}.gate_proj.weight"] = gate
                found[f"model.{prefix}.experts.{expert}.up_proj.weight"] = up
        elif role == "down":
            for expert, matrix in enumerate(weight.mT):
                found[f"model.{prefix}.experts.{expert}.down_proj.weight"] = matrix
        elif "gate_up_proj" in name:
            gate, up = weight.chunk(2)
            found[full.replace("gate_up_proj", "gate_proj")] = gate
            found[full.replace("gate_up_proj", "up_proj")] = up
        else:
            found[full] = weight
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in found.items()}


def export(state: Path = STATE, folder: Path = CHECKPOINT) -> None:
    """Write the checkpoint of a training state, replacing what is there."""
    trained = torch.load(state, weights_only=True, mmap=True)["model"]
    tensors = published_tensors(trained)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):06d}.safetensors"
        save_file(shard, partial / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    ids = {key: config()[key] for key in ("bos_token_id", "eos_token_id")}
    for file, value in (
        ("config.json", config()),
        ("model.safetensors.index.json", index),
        ("generation_config.json", {"_from_model_config": True, **ids}),
    ):
        (partial / file).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(partial)
    for path in partial.iterdir():
        path.chmod(0o644)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)


if __name__ == "__main__":
    export()
