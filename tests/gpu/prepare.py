"""Prepare what `make gpu` needs, where a network and the extras are: wheels, graphs, engines."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from tests.engines import build_by, probe
from tests.gpu import graphs, wheels
from tests.gpu.place import PREPARED
from trtcoder import open_engine
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.recipe import Recipe, RecipeOptions
from trtcoder.export.targets.cuda import cuda_recipe
from trtcoder.export.targets.onnxruntime import DATA_FILE, OnnxRuntime
from trtcoder.export.weights.data_file import layout
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import LITE_CONFIG

DEMO = Path("demo/checkpoint")
# Beside torch and transformers, which are there and bring NumPy.
PACKAGES = (
    "onnxruntime-gpu==1.31.1",
    *("click", "ml-dtypes", "rich"),
    *("fastapi", "httptools", "llguidance", "prometheus-client", "structlog", "uvicorn", "uvloop"),
)
_THERE = ("numpy",)
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
FORMS = [(a, *form) for a in ("fp16", "bf16") for form in ((4, 32), (4, 128), (8, 128))]
CACHES = [("fp16", "fp16"), ("bf16", "bf16"), ("bf16", "int8"), ("bf16", "fp8"), ("fp16", "int8")]
PROMPTS = ["def add(a, b):\n", "import os\n\n\ndef list_files(", "class Stack:\n    def __init__("]
BLOCK = 16


@click.command()
@click.option("--wheels/--no-wheels", "with_wheels", default=True, help="Download wheels as well.")
def main(with_wheels: bool) -> None:
    """Write engines/gpu."""
    lite = DeepseekV2Config.from_dict(LITE_CONFIG)
    for activations, bits, block in FORMS:
        experts(PREPARED / "experts", lite, LITE_CONFIG, activations, bits, block)
    for activations, cache in CACHES:
        attention(PREPARED / "attention", lite, activations, cache)
    demo(PREPARED)
    random_engine(PREPARED / "lite", LITE_CONFIG, cuda_recipe(RecipeOptions(provider="cuda")))
    if with_wheels:
        download(PREPARED / "wheels")
    click.echo(f"{PREPARED} is ready; see docs/gpu.md")


def experts(
    root: Path,
    config: DeepseekV2Config,
    raw: Mapping[str, Any],
    activations: str,
    bits: int,
    block: int,
) -> None:
    """Write one form of experts; its folder's name is read by `tests.gpu.moe`."""
    folder = root / f"{activations}-{bits}-{block}"
    graphs.write_experts(folder, config, activations, bits, block)
    (folder / "config.json").write_text(json.dumps(raw))


def attention(root: Path, config: DeepseekV2Config, activations: str, cache: str) -> None:
    """Write one type of cache; its folder's name is read by `tests.gpu.attention`."""
    folder = root / f"{activations}-{cache}"
    graphs.write_attention(folder, config, activations, cache, BLOCK)
    told: dict[str, Any] = {
        "heads": config.num_attention_heads,
        "latent": config.kv_lora_rank,
        "width": config.cache_width,
        "scale": config.softmax_scale,
        "block": BLOCK,
    }
    if cache in ("int8", "fp8"):
        told["scales"] = graphs.cache_scales(cache, config.cache_width).tolist()
    (folder / "config.json").write_text(json.dumps(told))


def demo(root: Path) -> None:
    """Build the demo engine for CUDA, and note its twin's logits and the CPU's answers."""
    source = Checkpoint.open(DEMO)
    recipe = cuda_recipe(RecipeOptions(provider="cuda"))
    for name in ("demo", "demo-cpu"):
        shutil.rmtree(root / name, ignore_errors=True)
    engine = build_by(source, root / "demo", recipe, None)
    same = dataclasses.replace(recipe, provider="cpu", activations=None, cache="fp32")
    build_by(source, root / "demo-cpu", same, None)
    text = Path("export/pipeline.py").read_text()
    with open_engine(root / "demo-cpu") as llm:
        ids = llm.prompts.completion(text)[:400]
        given = llm.generate(PROMPTS, max_tokens=48, temperature=0.0, progress=False)
    answers = [(prompt, each.outputs[0].text) for prompt, each in zip(PROMPTS, given, strict=True)]
    logits = probe(engine, source).run(ids).logits
    np.save(root / "demo_logits.npy", logits.astype(np.float16))
    told = {"ids": list(ids), "answers": answers, "max_tokens": 48}
    (root / "demo_text.json").write_text(json.dumps(told))
    shutil.rmtree(root / "demo-cpu")


def random_engine(folder: Path, config: Mapping[str, Any], recipe: Recipe) -> None:
    """Write all of an engine but its weights, which `tests.gpu.lite` draws."""
    shutil.rmtree(folder, ignore_errors=True)
    described = folder / "source"
    described.mkdir(parents=True)
    (described / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, described / name)
    plan = OnnxRuntime().plan(Checkpoint.describe(described), recipe)
    plan.write_rest(folder)
    prompting = read_prompting(Checkpoint.open(DEMO), None)
    (folder / "manifest.json").write_text(plan.manifest(prompting, "0" * 64).to_json())
    declared = plan.weights.declared
    offsets, nbytes = layout(declared.values())
    told = {
        name: (offsets[name], weight.dtype.value, int(np.prod(weight.shape, dtype=np.int64)))
        for name, weight in declared.items()
    }
    written = {"file": DATA_FILE, "bytes": nbytes, "weights": told}
    (folder / "layout.json").write_text(json.dumps(written))
    shutil.rmtree(described)


def download(folder: Path) -> None:
    """Download wheels for the other machine's Python, and cut the large ones."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    command += ["--only-binary=:all:", "--python-version", PYTHON]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*command, *PACKAGES], check=True)
    for wheel in list(folder.glob("*.whl")):
        if wheel.name.split("-")[0] in _THERE:
            wheel.unlink()
        else:
            wheels.cut(wheel)


if __name__ == "__main__":
    main()
