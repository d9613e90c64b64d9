"""The checkpoints that readers read: the demo model, and random ones of both published kinds."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.quantized_checkpoints import CUDA_FORMS, FORMS, RTX_FORMS, build, full_like, lite_like
from tests.reference.quantized import QuantizedWeights
from trtcoder.testing.random_checkpoint import write_random_checkpoint

DEMO = Path("demo/checkpoint")
# vLLM's kernels for latent attention are made for the published widths.
_ATTENTION = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
KINDS = ("demo", "lite", "236b")
# The demo's experts are 192 wide: one and a half blocks.
_DEMO_FORMS = ("fp8-modelopt", "nvfp4", "int4-64-zp", "int4-32")
# Kinds of engines, each with its forms and their options of `trtcoder build`.
GROUPS = {"checkpoints": FORMS, "cuda": CUDA_FORMS, "plans": RTX_FORMS}


@dataclass(frozen=True, slots=True)
class Sample:
    """A quantized checkpoint, or an engine for GPUs.

    Attributes:
        kind: what it was made of, one of `KINDS`.
        form: how it is stored, one of those in `GROUPS`.
        source: the checkpoint that it was made of.
        folder: where it is.
    """

    kind: str
    form: str
    source: Path
    folder: Path

    @property
    def group(self) -> str:
        """The kind of engine, one of `GROUPS`."""
        return next(group for group, forms in GROUPS.items() if self.form in forms)


def prepare(root: Path, groups: Collection[str]) -> list[Sample]:
    """Build what is not there yet of some of `GROUPS`, in ``root``."""
    found = []
    wanted = [item for group in groups for item in GROUPS[group].items()]
    for kind in KINDS:
        source = DEMO if kind == "demo" else root / f"{kind}-source"
        if not source.exists():
            config = lite_like(**_ATTENTION) if kind == "lite" else full_like(**_ATTENTION)
            write_random_checkpoint(source, config)
        for form, options in wanted:
            if kind == "demo" and form in FORMS and form not in _DEMO_FORMS:
                continue
            folder = root / f"{kind}-{form.replace(', ', '-').replace(' ', '-')}"
            if not folder.exists():
                gate = [] if kind == "demo" else ["--no-gate"]
                build(source, folder, *options, *gate)
            found.append(Sample(kind, form, source, folder))
    return found


def write_twin(sample: Sample, folder: Path) -> Path:
    """Write the values that a sample stores, in bfloat16 and unquantized; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((sample.folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (sample.folder / name).exists():
            (folder / name).write_bytes((sample.folder / name).read_bytes())
    index = json.loads((sample.source / "model.safetensors.index.json").read_text())
    weights = QuantizedWeights(sample.folder)
    import ml_dtypes

    tensors = {name: weights[name].astype(ml_dtypes.bfloat16) for name in index["weight_map"]}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def prompts(sample: Sample) -> list[list[int]]:
    """Return token ids to continue."""
    config = json.loads((sample.folder / "config.json").read_text())
    draw = np.random.default_rng(7).integers(0, config["vocab_size"] - 8, (3, 12))
    return [[int(token) for token in row] for row in draw]
