"""Repositories for NVIDIA's own backends, of checkpoints that engines for GPUs are.

Nothing of ours runs there: the files say where the checkpoint is and how it is to be split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trtcoder.bundle.manifest import FILE_NAME as MANIFEST
from trtcoder.errors import EngineError
from trtcoder.refusals import explain, parse_json
from trtcoder.runtime.triton import llmapi
from trtcoder.runtime.triton.config import ModelConfig
from trtcoder.runtime.triton.models import ENGINE_MODEL, WRITTEN, ModelFolder
from trtcoder.runtime.triton.settings import ENGINE

Backend = Literal["tensorrtllm", "vllm"]
BACKENDS: tuple[Backend, ...] = ("tensorrtllm", "vllm")
VLLM_MODEL = "vllm_model"
# NVIDIA's model for its image with TensorRT-LLM, which is not ours to copy.
_NVIDIAS = "/app/all_models/llmapi/tensorrt_llm/1"
_CODE = f'''\
"""{WRITTEN}; the code is NVIDIA's, of the image that runs it."""

import importlib.util
import os
import sys

folder = os.environ.get("TRTLLM_TRITON_MODEL", "{_NVIDIAS}")
sys.path.insert(0, folder)
spec = importlib.util.spec_from_file_location("nvidias_model", os.path.join(folder, "model.py"))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
TritonPythonModel = module.TritonPythonModel
'''


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A quantized checkpoint in Hugging Face's layout.

    Attributes:
        folder: where it is.
        quant_method: how it is stored, in config.json's word.
        max_positions: its context; None if config.json does not say.
        readers: the servers that its manifest names; None where it has none.
    """

    folder: Path
    quant_method: str
    max_positions: int | None
    readers: tuple[str, ...] | None = None

    @classmethod
    def find(cls, folder: Path) -> Checkpoint | None:
        """Return the checkpoint that a folder is; None where it is none that is quantized.

        Raises:
            EngineError: its config.json or its manifest cannot be read.
        """
        config = _read(folder / "config.json")
        found = config.get("quantization_config") if isinstance(config, dict) else None
        method = found.get("quant_method") if isinstance(found, dict) else None
        if not isinstance(method, str):
            return None
        positions = config.get("max_position_embeddings")
        manifest = _read(folder / MANIFEST)
        parts = manifest.get("quantized") if isinstance(manifest, dict) else None
        readers = parts.get("readers") if isinstance(parts, dict) else None
        return cls(
            folder,
            method,
            positions if isinstance(positions, int) else None,
            tuple(readers) if isinstance(readers, list) else None,
        )

    @property
    def backend(self) -> Backend:
        """Which of NVIDIA's backends reads it: TensorRT-LLM has no int4 experts.

        It does not refuse what it would misread, so that the manifest's word counts.
        """
        if self.readers is not None:
            return "tensorrtllm" if "tensorrt-llm" in self.readers else "vllm"
        return "tensorrtllm" if self.quant_method in ("fp8", "modelopt") else "vllm"

    def advice(self, gpus: int) -> str | None:
        """Return TensorRT-LLM's settings for so many GPUs, which `trtcoder build` left beside it.

        Those for the least memory: they start on larger GPUs too.
        """
        found = {}
        for path in self.folder.glob(f"launch/tensorrt-llm-{gpus}x*gb.yaml"):
            memory = path.stem.rsplit("x", 1)[1].removesuffix("gb")
            if memory.isdecimal():
                found[int(memory)] = path
        if not found:
            return None
        path = found[min(found)]
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise EngineError(explain(error, path)) from error

    def files(self) -> list[str]:
        """Return the names of all its files."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


def _read(path: Path) -> Any:
    """Return what a JSON file holds; None if there is none."""
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise EngineError(explain(error, path)) from error
    return parse_json(text, path, EngineError, "copy the folder again")


def checkpoint_models(
    checkpoint: Checkpoint, backend: Backend, *, seen_at: Path, gpus: int, context: int | None
) -> list[ModelFolder]:
    """Return the models of a repository for one of NVIDIA's backends.

    Args:
        checkpoint: what is served.
        backend: whose.
        seen_at: where the server sees the repository.
        gpus: that share each matrix.
        context: most tokens of a prompt and its answer; None is the model's.
    """
    name = VLLM_MODEL if backend == "vllm" else ENGINE_MODEL
    place = str(seen_at / name / "1" / ENGINE)
    longest = context or checkpoint.max_positions
    if backend == "vllm":
        engine = {
            "model": place,
            "tensor_parallel_size": gpus,
            # The experts' rows and scales are not always divided by the number of GPUs.
            "enable_expert_parallel": gpus > 1,
            "gpu_memory_utilization": 0.9,
            **({} if longest is None else {"max_model_len": longest}),
        }
        config = ModelConfig(
            name, (), (), backend="vllm", kind="KIND_MODEL",
            comment=f"{WRITTEN}: a checkpoint for Triton's vLLM backend.",
        )  # fmt: skip
        return [ModelFolder(config, {"model.json": json.dumps(engine, indent=2) + "\n"})]
    settings: dict[str, Any] = {"model": place, "backend": "_autodeploy"}
    advice = checkpoint.advice(gpus)
    if advice is None:
        settings["world_size"] = gpus
        settings |= {} if longest is None else {"max_seq_len": longest}
    elif context is not None:
        advice = re.sub(r"(?m)^max_seq_len: .*$", f"max_seq_len: {context}", advice)
    triton = {"max_batch_size": 0, "decoupled": True}
    config = ModelConfig(
        name,
        llmapi.UPSTREAM_INPUTS,
        llmapi.UPSTREAM_OUTPUTS,
        comment=f"{WRITTEN}: a checkpoint for NVIDIA's own llmapi model.",
    )
    text = f"{_yaml(settings)}{advice or ''}triton_config:\n{_yaml(triton, '  ')}"
    return [ModelFolder(config, {"model.py": _CODE, "model.yaml": text})]


def _yaml(values: Mapping[str, Any], indent: str = "") -> str:
    return "".join(f"{indent}{key}: {json.dumps(value)}\n" for key, value in values.items())
