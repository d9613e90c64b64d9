"""`trtcoder triton`: a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtcoder.commands import engine_options

if TYPE_CHECKING:
    from trtcoder.runtime.triton.checkpoints import Checkpoint
    from trtcoder.runtime.triton.models import ModelFolder
    from trtcoder.runtime.triton.repository import Repository


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", required=True, type=click.Path(path_type=Path), help="The repository's folder."
)
@click.option("--force", is_flag=True, help="Replace a repository that this command wrote.")
@click.option(
    "--engine-as",
    "placing",
    type=click.Choice(["link", "copy", "symlink"]),
    default="link",
    show_default=True,
    help="How the engine comes into it: hard links (copies where there are none), copies, or "
    "symbolic links.",
)
@click.option(
    "--older-names",
    is_flag=True,
    help="Also ensemble, tensorrt_llm_bls, preprocessing and postprocessing.",
)
@click.option(
    "--no-streams",
    is_flag=True,
    help="tensorrt_llm answers unary calls, each in one response.",
)
@click.option(
    "--environment",
    is_flag=True,
    help="Bring the packages that this Python has, for a Triton whose Python has none.",
)
@engine_options.THREADS
@engine_options.CONTEXT
@engine_options.CACHE_TOKENS
@engine_options.MAX_BATCH
@engine_options.MAX_QUEUE
@engine_options.MAX_ANSWER_TOKENS
@engine_options.DETERMINISTIC
@engine_options.SPECULATE
@engine_options.NO_PREFIX_CACHE
@click.option(
    "--backend",
    type=click.Choice(["tensorrtllm", "vllm"]),
    help="Of a quantized checkpoint: whose backend reads it.  "
    "[default: TensorRT-LLM's for float8, vLLM's for others]",
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of a quantized checkpoint: GPUs that share each matrix.",
)
@click.option(
    "--seen-at",
    type=click.Path(path_type=Path),
    help="Of a quantized checkpoint: where the server sees the repository.  [default: where it is]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def triton(engine: Path, out: Path, **values: Any) -> None:
    """Write a model repository that serves ENGINE in a stock Triton with the Python backend.

    A quantized checkpoint in Hugging Face's layout gets the files for NVIDIA's own backends.
    The model's Python needs trtcoder[cpu,triton]; docs/triton.md says how Triton finds it.
    """
    from trtcoder.bundle.folder import Bundle
    from trtcoder.bundle.manifest import FILE_NAME as MANIFEST
    from trtcoder.runtime.triton import environment
    from trtcoder.runtime.triton.checkpoints import Checkpoint
    from trtcoder.runtime.triton.models import models
    from trtcoder.runtime.triton.repository import Repository
    from trtcoder.runtime.triton.settings import ModelSettings, TritonConfig

    settings = ModelSettings(
        threads=values["threads"],
        context=values["context"],
        cache_tokens=values["cache_tokens"],
        max_batch=values["max_batch"],
        max_queue=values["max_queue"],
        max_answer_tokens=values["max_answer_tokens"],
        deterministic=values["deterministic"],
        speculate=values["speculate"],
        prefix_cache=not values["no_prefix_cache"],
        triton_config=TritonConfig(decoupled=not values["no_streams"]),
    )
    packs = values["environment"]
    if packs:
        environment.check()
    checkpoint = Checkpoint.find(engine)
    if checkpoint is not None:
        _checkpoint(checkpoint, out, values)
        return
    bundle = Bundle.load(engine, verify_hashes=False)
    settings.check(bundle.manifest)
    files = {name: info.bytes for name, info in bundle.manifest.files.items()}
    files[MANIFEST] = (engine / MANIFEST).stat().st_size
    repository = Repository(out, force=values["force"])
    folders = models(
        settings,
        older=values["older_names"],
        environment=environment.PATH if packs else None,
    )
    placed = repository.write(engine, files, folders, values["placing"], packs=packs)
    _say(repository, folders, placed, values)


def _checkpoint(checkpoint: Checkpoint, out: Path, values: dict[str, Any]) -> None:
    """Write a repository for one of NVIDIA's own backends."""
    from trtcoder.runtime.triton.checkpoints import checkpoint_models
    from trtcoder.runtime.triton.repository import Repository

    repository = Repository(out, force=values["force"])
    folders = checkpoint_models(
        checkpoint,
        values["backend"] or checkpoint.backend,
        seen_at=values["seen_at"] or repository.target,
        gpus=values["gpus"],
        context=values["context"],
    )
    files = {name: (checkpoint.folder / name).stat().st_size for name in checkpoint.files()}
    placed = repository.write(checkpoint.folder, files, folders, values["placing"])
    _say(repository, folders, placed, values)


def _say(
    repository: Repository,
    folders: Sequence[ModelFolder],
    placed: dict[str, str],
    values: dict[str, Any],
) -> None:
    names = [folder.config.name for folder in folders]
    if values["as_json"]:
        found = {"repository": str(repository.target), "models": names, "engine": placed}
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    ways = ", ".join(sorted(set(placed.values())))
    click.echo(f"{repository.target}: {', '.join(names)} (the engine by {ways})")
    click.echo(f"tritonserver --model-repository {repository.target}")
