"""The files that servers are started with, for a few machines, all from one table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trtcoder.calib.storage.scheme import Scheme
from trtcoder.export.recipe import Recipe
from trtcoder.export.targets.checkpoints.form import Form, form_of
from trtcoder.export.targets.checkpoints.splits import Split, problems, weight_bytes
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

# Of a GPU's memory what a server may take, and what it keeps for activations and graphs.
_USABLE, _RESERVED = 0.9, 2_000_000_000
# Less room for the cache than this many tokens is not worth a start.
_LEAST_TOKENS = 4096
_LONGEST = 32_768


@dataclass(frozen=True, slots=True)
class Machine:
    """``gpus`` GPUs of ``memory`` bytes each."""

    gpus: int
    memory: int

    @property
    def name(self) -> str:
        """How files are named after it, such as ``8x80gb``."""
        return f"{self.gpus}x{self.memory // _GB}gb"


_GB = 10**9
MACHINES = (Machine(1, 24 * _GB), Machine(1, 80 * _GB), Machine(8, 80 * _GB))
# NVFP4 is for Blackwell: an RTX 5090, an RTX PRO 6000, and B200.
BLACKWELL = (
    Machine(1, 32 * _GB),
    Machine(1, 96 * _GB),
    Machine(1, 180 * _GB),
    Machine(8, 180 * _GB),
)
_NEEDS_BLACKWELL = "NVFP4: for Blackwell GPUs, of compute capability 10.0 and later."


@dataclass(frozen=True, slots=True)
class Launch:
    """How a checkpoint is started on a machine.

    Attributes:
        machine: the machine.
        split: how it is split.
        weights: bytes of weights on a GPU.
        cache_tokens: tokens that the latent cache of a GPU has room for, in bfloat16.
    """

    machine: Machine
    split: Split
    weights: int
    cache_tokens: int

    @property
    def fits(self) -> bool:
        """Whether there is room for the weights and a cache."""
        return self.cache_tokens >= _LEAST_TOKENS


def launches(
    config: DeepseekV2Config, recipe: Recipe, excluded: Mapping[str, str], plan: WeightPlan
) -> list[Launch]:
    """Return a launch for each machine: the split with the least weights that shapes allow."""
    found = []
    for machine in BLACKWELL if form_of(recipe) is Form.NVFP4 else MACHINES:
        allowed = [
            split
            for split in candidates(machine.gpus)
            if not problems(config, form_of(recipe), group_of(recipe), excluded, split)
        ]
        sized = [(weight_bytes(plan, split), -split.tp, split) for split in allowed]
        if sized:
            weights, _, split = min(sized, key=lambda each: each[:2])
            room = int(machine.memory * _USABLE) - _RESERVED - weights
            row = 2 * config.num_hidden_layers * config.cache_width
            found.append(Launch(machine, split, weights, max(0, room // row)))
    return found


def candidates(gpus: int) -> list[Split]:
    """Return the splits over so many GPUs, experts whole on a GPU where there are several."""
    return [Split(tp, gpus // tp, gpus > 1) for tp in (1, 2, 4, 8) if tp <= gpus and gpus % tp == 0]


def group_of(recipe: Recipe) -> int:
    """Return how many weights share a scale, where a recipe packs int4; else 0."""
    scheme = recipe.scheme("experts_gate_up")
    return scheme.block_size if isinstance(scheme, Scheme) else 0


def launch_files(
    readers: Sequence[str], found: Sequence[Launch], max_positions: int, form: Form
) -> dict[str, str]:
    """Return the text of each file by its name in the checkpoint's folder.

    They are run in that folder. A machine that the weights do not fit has none. ``readers`` are the
    servers that load the checkpoint.
    """
    note = f"# {_NEEDS_BLACKWELL}\n" if form is Form.NVFP4 else ""
    files: dict[str, str] = {}
    for launch in found:
        if not launch.fits:
            continue
        length = min(_LONGEST, max_positions, launch.cache_tokens)
        name = launch.machine.name
        files[f"launch/vllm-{name}.sh"] = _script(vllm_command(launch, length), note)
        if "sglang" in readers:
            files[f"launch/sglang-{name}.sh"] = _script(sglang_command(launch, length, form), note)
        if "tensorrt-llm" in readers:
            settings = f"launch/tensorrt-llm-{name}.yaml"
            files[settings] = note + autodeploy_settings(launch, length)
            files[f"launch/tensorrt-llm-{name}.sh"] = _script(
                ["trtllm-serve", ".", "--backend", "_autodeploy", "--config", settings], note
            )
    return files


def vllm_command(launch: Launch, length: int) -> list[str]:
    """Return the arguments of `vllm serve`."""
    split = launch.split
    command = ["vllm", "serve", ".", "--max-model-len", str(length)]
    command += ["--gpu-memory-utilization", f"{_USABLE:g}"]
    command += ["--tensor-parallel-size", str(split.tp)]
    if split.dp > 1:
        command += ["--data-parallel-size", str(split.dp)]
    if split.expert_parallel:
        command.append("--enable-expert-parallel")
    return command


def sglang_command(launch: Launch, length: int, form: Form) -> list[str]:
    """Return the arguments of SGLang's server; each of its data-parallel groups has all experts."""
    split = launch.split
    command = ["python3", "-m", "sglang.launch_server", "--model-path", "."]
    command += ["--context-length", str(length), "--mem-fraction-static", f"{_USABLE:g}"]
    command += ["--tp-size", str(split.tp)]
    if split.expert_parallel and split.tp > 1:
        command += ["--ep-size", str(split.tp)]
    if split.dp > 1:
        command += ["--dp-size", str(split.dp)]
    if form is Form.NVFP4:
        command += ["--quantization", "modelopt_fp4"]
    return command


def autodeploy_settings(launch: Launch, length: int) -> str:
    """Return the YAML of TensorRT-LLM's AutoDeploy.

    Over several GPUs each has whole experts and all of attention, as its own settings for this
    family have it.
    """
    lines = [
        "runtime: trtllm",
        f"world_size: {launch.machine.gpus}",
        "max_batch_size: 64",
        f"max_seq_len: {length}",
        "attn_backend: flashinfer",
        "compile_backend: torch-cudagraph",
        "kv_cache_config:",
        f"  free_gpu_memory_fraction: {_USABLE:g}",
        "transforms:",
        "  insert_cached_mla_attention:",
        "    backend: flashinfer_mla",
    ]
    if launch.machine.gpus > 1:
        lines += ["  detect_sharding:", "    enable_attention_dp: true"]
    return "\n".join(lines) + "\n"


def _script(command: Sequence[str], note: str) -> str:
    return f'#!/bin/sh\n{note}cd "$(dirname "$0")/.." && exec {shlex.join(command)} "$@"\n'
