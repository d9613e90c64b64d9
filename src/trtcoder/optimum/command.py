"""`optimum-cli export onnx` for DeepSeek-V2: Optimum's options, and a build by `trtcoder build`.

Optimum's exporter traces a model of transformers, held in memory as a whole; it has no door for a
graph that is there already. So the command itself is extended, and hands on every other model.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from trtcoder import process
from trtcoder.errors import BuildError, DependencyError

# Names `trtcoder` of the environment that verifies engines, where that is another one.
PROGRAM = "TRTCODER"
_MODEL_TYPE = "deepseek_v2"
_TASKS = (
    "auto",
    "text-generation",
    "text-generation-with-past",
    "causal-lm",
    "causal-lm-with-past",
)
# What `--variant` takes: precisions of `trtcoder build`, of which Optimum's default is float32.
_VARIANTS = {name: name for name in ("fp32", "fp8", "int8", "int4", "mixed")} | {"default": "fp32"}
# What is looked at here, or says what is so anyway.
_TAKEN = {"model", "output", "task", "dtype", "variant", "cache_dir", "trust_remote_code", "func"}
_FILES = ["*.json", "*.jinja", "*.safetensors"]


def take_over(command: Any) -> None:
    """Let Optimum's command, a class, build engines of DeepSeek-V2; it does the rest as before."""
    theirs = command.run

    def run(self: Any) -> None:
        checkpoint = find_checkpoint(self.args.model, self.args.cache_dir)
        if checkpoint is None:
            theirs(self)
            return
        status = process.run(lambda: export(checkpoint, self.args, self.parser))
        if status:
            raise SystemExit(status)

    command.run = run


def export(checkpoint: Path, options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Build an engine of a checkpoint as Optimum's options ask for it; return the exit status.

    Raises:
        BuildError: an option that an engine cannot follow, or its folder is there already.
        DependencyError: the transformers here verifies no engine, and no other one is named.
    """
    weights = precision(options, parser)
    if options.output.exists():
        raise BuildError(f"{options.output}: exists; choose another folder, or remove it")
    program = find_program()
    command = [program, "build", str(checkpoint), "--out", str(options.output)]
    return subprocess.run([*command, "--weights", weights], check=False).returncode


def precision(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Return the precision of the weights that Optimum's options ask for.

    Raises:
        BuildError: an option that an engine cannot follow.
    """
    if options.task not in _TASKS:
        raise BuildError(f"--task {options.task}: engines generate text; leave it out")
    if options.dtype not in (None, "fp32"):
        raise BuildError(
            f"--dtype {options.dtype}: engines compute in float32; leave it out, and choose the "
            "weights by --variant int8 or int4"
        )
    if options.variant not in _VARIANTS:
        known = ", ".join(name for name in _VARIANTS if name != "default")
        raise BuildError(f"--variant {options.variant}: of a DeepSeek-V2 model there are {known}")
    for action in parser._actions:
        given = getattr(options, action.dest, action.default)  # of --help there is none
        if action.dest not in _TAKEN and given != action.default:
            raise BuildError(
                f"{action.option_strings[-1]}: nothing is traced for a DeepSeek-V2 model; leave it "
                "out (`trtcoder build --help` has what can be chosen)"
            )
    return _VARIANTS[options.variant]


def find_program() -> str:
    """Return the `trtcoder` that builds and verifies.

    Raises:
        DependencyError: it is not there, or its transformers verifies no engine.
    """
    from trtcoder.export.reference.transformers_modules import TRANSFORMERS

    named = os.environ.get(PROGRAM) or None
    if named is None and (here := importlib.metadata.version("transformers")) != TRANSFORMERS:
        raise DependencyError(
            f"transformers {here} is installed, and engines are verified with {TRANSFORMERS}: "
            "`python -m venv verifying && verifying/bin/pip install "
            f"'trtcoder[build,cpu,verify]'`, then set {PROGRAM}=verifying/bin/trtcoder"
        )
    program = shutil.which(named or str(Path(sys.executable).with_name("trtcoder")))
    if program is None:
        raise DependencyError(
            f"{PROGRAM}: there is no program {named}" if named else "trtcoder is not installed here"
        )
    return program


def find_checkpoint(model: str, cache: str | None) -> Path | None:
    """Return the folder of a DeepSeek-V2 checkpoint; None where it is another model, or not there.

    ``model`` is a folder, or a name on Hugging Face's hub, whose files are then downloaded to
    ``cache``.
    """
    local = Path(model).is_dir()
    try:
        if local:
            config = Path(model) / "config.json"
        else:
            from huggingface_hub import hf_hub_download

            config = Path(hf_hub_download(model, "config.json", cache_dir=cache))
        found = json.loads(config.read_text(encoding="utf-8"))
    except Exception:  # whatever it is, Optimum's own command says it
        return None
    if not isinstance(found, dict) or found.get("model_type") != _MODEL_TYPE:
        return None
    if local:
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, cache_dir=cache, allow_patterns=_FILES))
