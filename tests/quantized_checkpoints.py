"""Small checkpoints of the published shapes' kind, and quantized ones made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from trtcoder.cli import main
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

# Widths in blocks of 128 as the published models have them, and half blocks where these have some:
# kv_a_proj_with_mqa, and Lite's dense layer.
_WIDTHS: dict[str, Any] = {
    "hidden_size": 256,
    "moe_intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 96,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 2,
}
FORMS: dict[str, list[str]] = {
    "fp8-block": ["--target", "tensorrt-llm"],
    "fp8-modelopt": ["--target", "tensorrt-llm", "--fp8-scales", "tensor"],
    "nvfp4": ["--target", "tensorrt-llm", "--weights", "nvfp4"],
    "int4-128": ["--target", "compressed-tensors"],
    "int4-64-zp": ["--target", "compressed-tensors", "--block-size", "64", "--zero-points"],
    "int4-32": ["--target", "compressed-tensors", "--block-size", "32"],
}
# Engines for CUDA, which are no checkpoints.
CUDA_FORMS: dict[str, list[str]] = {
    "cuda int4-32 bf16": ["--provider", "cuda"],
    "cuda int4-128 fp16, int8 cache": [
        "--provider", "cuda", "--block-size", "128", "--activations", "fp16", "--cache", "int8",
    ],
    "cuda int4-64-zp fp16": [
        "--provider", "cuda", "--block-size", "64", "--activations", "fp16", "--zero-points",
    ],
    # What the cache rounds is more than int8's gate allows the demo model.
    "cuda int8-32 bf16, fp8 cache": [
        "--provider", "cuda", "--weights", "int8", "--cache", "fp8", "--no-gate",
    ],
}  # fmt: skip
# Compiled plans.
_RTX = ["--target", "tensorrt-rtx", "--context", "512"]
RTX_FORMS: dict[str, list[str]] = {
    "rtx int4-128": _RTX,
    "rtx int4+fp8": [*_RTX, "--weights", "int4+fp8"],
    "rtx int4+fp8, static": [*_RTX, "--weights", "int4+fp8", "--activations", "static"],
}
QUICK = ["--tokens", "120", "--calibration-tokens", "400", "--min-expert-tokens", "4"]


def lite_like(**overrides: Any) -> dict[str, Any]:
    """Return Lite's kind: no q_lora, a dense layer of half a block too much."""
    return tiny_config(**{**_WIDTHS, "intermediate_size": 320, **overrides})


def full_like(**overrides: Any) -> dict[str, Any]:
    """Return the 236B model's kind: q_lora, routing by groups, a dense layer of whole blocks."""
    more = {"q_lora_rank": 128, "intermediate_size": 384}
    return tiny_grouped_config(**{**_WIDTHS, **more, **overrides})


def build(checkpoint: Path, out: Path, *options: str) -> dict[str, Any]:
    """Run `trtcoder build`; return what it prints as JSON."""
    arguments = ["build", str(checkpoint), "--out", str(out), *QUICK, *options, "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return printed
