from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np

from benchmarks.llama_gguf import fallbacks, stored_types, write_gguf
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint


def test_a_gguf_holds_every_weight_of_the_checkpoint_once(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", tiny_config(), seed=1)
    checkpoint = Checkpoint.open(folder)
    path = tmp_path / "model.gguf"
    write_gguf(checkpoint, path)
    weights = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    assert stored_types(path)["F32"]["weights"] == weights

    config = DeepseekV2Config.of(checkpoint.config)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    both = checkpoint.read("model.layers.1.self_attn.kv_b_proj.weight")
    both = both.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
    keys, values = tensors["blk.1.attn_k_b.weight"], tensors["blk.1.attn_v_b.weight"]
    assert np.array_equal(np.concatenate([keys.transpose(0, 2, 1), values], axis=1), both)
    expert = checkpoint.read("model.layers.2.mlp.experts.3.down_proj.weight")
    assert np.array_equal(tensors["blk.2.ffn_down_exps.weight"][3], expert)


def test_tensors_of_another_type_than_asked_for_are_counted_by_what_is_stored(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "deepseek2")
    for layer, kind in enumerate((np.float16, np.float16, np.float32)):
        writer.add_tensor(f"blk.{layer}.attn_k_b.weight", np.zeros((4, 48), kind))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.zeros((2, 256), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # As llama-quantize says it.
    notes = [
        "warning: blk.*.attn_k_b.weight - ncols 48 not divisible by 32 (required for type q8_0) "
        "(WARNING: must use F16 due to unusual shape) -> falling back to f16",
        "llama_model_quantize_impl: WARNING: 2 of 6 tensor(s) required fallback quantization",
    ]
    assert fallbacks(path, notes) == [
        {
            "name": "blk.*.attn_k_b.weight",
            "columns": 48,
            "block": 32,
            "wanted": "Q8_0",
            "stored": "F16",
            "tensors": 2,
            "weights": 2 * 4 * 48,
        }
    ]
    assert fallbacks(path, notes[1:]) == []
