"""A checkpoint as llama.cpp's GGUF: the weights unchanged, metadata, and tokenizer.

The keys and layouts are those that llama.cpp reads for its architecture ``deepseek2``. What it
computes otherwise than the published models (group-limited routing, an mscale that is not
mscale_all_dim, normalised mixing weights) cannot be written here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

Types = gguf.GGMLQuantizationType
Kind = Any  # one of them
_FALLBACK = (
    r"warning: (\S+) - ncols (\d+) not divisible by (\d+) \(required for type (\w+)\)"
    r".* -> falling back to (\w+)"
)
_EXPERT_PARTS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One of the file's tensors.

    Attributes:
        name: in the file.
        shape: of its elements, outermost first.
        load: returns its values.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], NDArray[np.generic]]


def write_gguf(checkpoint: Checkpoint, path: Path, *, as_stored: bool = False) -> None:
    """Write a checkpoint of DeepSeek-V2 as one GGUF file.

    Its weights are float32, or what the checkpoint stores where that is bfloat16 and llama.cpp
    takes it. One tensor at a time is in memory.
    """
    types = gguf_types(checkpoint) if as_stored else {}
    with writing(checkpoint, path, lambda name: types.get(name, Types.F32)) as write:
        for tensor in gguf_tensors(checkpoint):
            values = tensor.load()
            if types.get(tensor.name) == Types.BF16:
                values = (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
            write(values)


def write_hole(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file that `write_gguf` would, as stored, without data: it takes no disk."""
    types = gguf_types(checkpoint)
    with writing(checkpoint, path, lambda name: types[name]):
        pass
    sizes = [_nbytes(tensor.shape, types[tensor.name]) for tensor in gguf_tensors(checkpoint)]
    with path.open("r+b") as file:
        file.truncate(sum(map(_padded, [path.stat().st_size, *sizes])))


def gguf_types(checkpoint: Checkpoint) -> dict[str, Kind]:
    """Return the type of each tensor as stored: norms and routers are float32 to llama.cpp."""
    is_bfloat = checkpoint.stored_dtype == "bf16"
    return {
        tensor.name: Types.BF16
        if is_bfloat and len(tensor.shape) > 1 and "ffn_gate_inp" not in tensor.name
        else Types.F32
        for tensor in gguf_tensors(checkpoint)
    }


@contextmanager
def writing(
    checkpoint: Checkpoint, path: Path, type_of: Callable[[str], Kind]
) -> Iterator[Callable[[NDArray[np.generic]], None]]:
    """Write all but the tensors' data; yield what writes that, in the order of `gguf_tensors`."""
    writer = gguf.GGUFWriter(path, "deepseek2")
    config = DeepseekV2Config.of(checkpoint.config)
    _add_sizes(writer, config)
    _add_rotary(writer, config)
    _add_tokenizer(writer, checkpoint)
    for tensor in gguf_tensors(checkpoint):
        kind = type_of(tensor.name)
        size = _nbytes(tensor.shape, kind)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    yield writer.write_tensor_data
    writer.close()


def _nbytes(shape: Sequence[int], kind: Kind) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(shape) // int(block) * int(size)


def _padded(size: int) -> int:
    alignment = int(gguf.GGUF_DEFAULT_ALIGNMENT)
    return -(-size // alignment) * alignment


def stored_types(path: Path) -> dict[str, dict[str, int]]:
    """Return, by type, how many tensors and weights a GGUF holds and in how many bytes."""
    found: dict[str, dict[str, int]] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        entry = found.setdefault(tensor.tensor_type.name, {"tensors": 0, "weights": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["weights"] += int(tensor.n_elements)
        entry["bytes"] += int(tensor.n_bytes)
    return dict(sorted(found.items()))


def fallbacks(path: Path, notes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the tensors that llama-quantize stored as another type than was asked for.

    Args:
        path: what it wrote.
        notes: its warnings, in which ``*`` stands for any layer.

    Returns:
        For each kind of tensor and type: how many ``tensors`` and ``weights``, the type that was
        ``wanted``, whose ``block`` does not divide the ``columns``, and the one ``stored``.
    """
    stored = [
        (re.sub(r"blk\.\d+", "blk.*", tensor.name), tensor.tensor_type.name, tensor.n_elements)
        for tensor in gguf.GGUFReader(path).tensors
    ]
    found = []
    for name, columns, block, wanted, kind in re.findall(_FALLBACK, "\n".join(notes)):
        sizes = [int(size) for each, has, size in stored if (each, has) == (name, kind.upper())]
        found.append(
            {
                "name": name,
                "columns": int(columns),
                "block": int(block),
                "wanted": wanted.upper(),
                "stored": kind.upper(),
                "tensors": len(sizes),
                "weights": sum(sizes),
            }
        )
    return found


def fewest_tokens(imatrix: Path) -> int:
    """Return the least tokens that any matrix, or expert of one, saw in an importance matrix."""
    tensors = gguf.GGUFReader(imatrix).tensors
    return min(int(tensor.data.min()) for tensor in tensors if tensor.name.endswith(".counts"))


def _add_sizes(writer: Any, config: DeepseekV2Config) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_head_count(config.num_attention_heads)
    # The latent cache is one key head for all query heads; the _mla sizes are those of a head
    # before W_UK and W_UV are absorbed, and set the softmax scale.
    writer.add_head_count_kv(1)
    writer.add_key_length(config.cache_width)
    writer.add_value_length(config.kv_lora_rank)
    writer.add_key_length_mla(config.qk_head_dim)
    writer.add_value_length_mla(config.v_head_dim)
    writer.add_kv_lora_rank(config.kv_lora_rank)
    if config.q_lora_rank is not None:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_leading_dense_block_count(config.first_k_dense_replace)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_rotary(writer: Any, config: DeepseekV2Config) -> None:
    writer.add_rope_dimension_count(config.qk_rope_head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    yarn = config.yarn
    if yarn is None:
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(yarn.factor)
    writer.add_rope_scaling_orig_ctx_len(yarn.original_max_position_embeddings)
    writer.add_rope_scaling_yarn_beta_fast(yarn.beta_fast)
    writer.add_rope_scaling_yarn_beta_slow(yarn.beta_slow)
    # For this architecture the key holds mscale_all_dim times the 0.1 of YaRN's formula, and
    # llama.cpp divides by 0.1 when it reads it.
    writer.add_rope_scaling_yarn_log_mul(0.1 * yarn.mscale_all_dim)


def _add_tokenizer(writer: Any, checkpoint: Checkpoint) -> None:
    found = json.loads((checkpoint.folder / "tokenizer.json").read_text(encoding="utf-8"))
    size = checkpoint.config.vocab_size
    tokens = [f"[PAD{index}]" for index in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for token, index in found["model"]["vocab"].items():
        tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for added in found["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("deepseek-llm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Files of older releases hold a merge as one string, newer ones as a pair.
    # None at all, as in random checkpoints, is an error there; one that gives no token is harmless.
    merges = found["model"]["merges"] or ["\u0120 \u0120"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    if checkpoint.config.bos_token_id is not None:
        writer.add_bos_token_id(checkpoint.config.bos_token_id)
    writer.add_eos_token_id(checkpoint.config.eos_token_ids[0])
    writer.add_add_bos_token(True)


def gguf_tensors(checkpoint: Checkpoint) -> Iterator[GgufTensor]:
    """Yield all weights, those that GGUF lays out otherwise rearranged.

    The experts of a layer are one tensor ``[experts, rows, columns]``. kv_b_proj is split by head
    into k_b_proj ``[heads, latent, nope]`` and v_b_proj ``[heads, v, latent]``.
    """
    config = DeepseekV2Config.of(checkpoint.config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, config.num_hidden_layers)
    for name, shape, load in _tensors(checkpoint, config):
        renamed = names.get_name(name, try_suffixes=(".weight",))
        if renamed is None:
            raise ValueError(f"{name}: the gguf package knows no name for it")
        yield GgufTensor(renamed, shape, load)


def _tensors(
    checkpoint: Checkpoint, config: DeepseekV2Config
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], NDArray[np.generic]]]]:
    heads, nope = config.num_attention_heads, config.qk_nope_head_dim
    latent = config.kv_lora_rank
    for name in checkpoint.names():
        before, _, last = name.partition(".self_attn.kv_b_proj")
        if last:

            def both(name: str = name) -> NDArray[np.float32]:
                return checkpoint.read(name).reshape(heads, -1, latent)

            def keys(both: Callable[[], NDArray[np.float32]] = both) -> NDArray[np.float32]:
                return np.ascontiguousarray(both()[:, :nope].transpose(0, 2, 1))

            def values(both: Callable[[], NDArray[np.float32]] = both) -> NDArray[np.float32]:
                return np.ascontiguousarray(both()[:, nope:])

            yield f"{before}.self_attn.k_b_proj.weight", (heads, latent, nope), keys
            yield f"{before}.self_attn.v_b_proj.weight", (heads, config.v_head_dim, latent), values
        elif ".mlp.experts.0.gate_proj" in name:
            prefix = name.partition("0.gate_proj")[0]
            for part in _EXPERT_PARTS:
                each = [
                    f"{prefix}{expert}.{part}.weight" for expert in range(config.n_routed_experts)
                ]

                def stacked(each: list[str] = each) -> NDArray[np.float32]:
                    return np.stack([checkpoint.read(one) for one in each])

                shape = (len(each), *checkpoint.shape(each[0]))
                yield f"{prefix}{part}.weight", shape, stacked
        elif ".mlp.experts." not in name:

            def whole(name: str = name) -> NDArray[np.float32]:
                return checkpoint.read(name)

            yield name, checkpoint.shape(name), whole
