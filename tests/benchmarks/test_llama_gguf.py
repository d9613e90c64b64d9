from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from benchmarks.llama_gguf import stored_types, write_gguf
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint


def test_a_gguf_holds_every_weight_of_the_checkpoint_once(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", tiny_config(), seed=1)
    checkpoint = Checkpoint.open(folder)
    path = tmp_path / "model.gguf"
    write_gguf(checkpoint, path)
    weights = sum(checkpoint.stored(name).size for name in checkpoint.names())
    assert stored_types(path)["F32"]["weights"] == weights

    config = DeepseekV2Config.of(checkpoint.config)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    both = checkpoint.read("model.layers.1.self_attn.kv_b_proj.weight")
    both = both.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
    keys, values = tensors["blk.1.attn_k_b.weight"], tensors["blk.1.attn_v_b.weight"]
    assert np.array_equal(np.concatenate([keys.transpose(0, 2, 1), values], axis=1), both)
    expert = checkpoint.read("model.layers.2.mlp.experts.3.down_proj.weight")
    assert np.array_equal(tensors["blk.2.ffn_down_exps.weight"][3], expert)
