"""The models of a repository: which there are, and the files of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trtcoder.runtime.triton import llmapi, older_names, text_models
from trtcoder.runtime.triton.config import ModelConfig
from trtcoder.runtime.triton.settings import ENGINE, FILE_NAME, ModelSettings

# By which a folder is known that may be replaced.
WRITTEN = "Written by `trtcoder triton`"
ENGINE_MODEL = "tensorrt_llm"
UNARY_MODEL = "tensorrt_llm_unary"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's folder: its configuration and the files of its version 1, by name."""

    config: ModelConfig
    files: Mapping[str, str] = field(default_factory=dict)

    def write(self, repository: Path) -> Path:
        """Write it; return the folder of version 1."""
        folder = repository / self.config.name
        version = folder / "1"
        version.mkdir(parents=True)
        (folder / "config.pbtxt").write_text(self.config.text(), encoding="utf-8", newline="\n")
        for name, text in self.files.items():
            (version / name).write_text(text, encoding="utf-8", newline="\n")
        return version


def models(
    settings: ModelSettings, *, older: bool = False, environment: str | None = None
) -> list[ModelFolder]:
    """Return the models of a repository, the one with the engine first.

    Args:
        settings: of the engine's model.
        older: also those of NVIDIA's older layout.
        environment: of the Python that runs them, as Triton's EXECUTION_ENV_PATH; None is the one
            that Triton finds.
    """
    parameters = {} if environment is None else {"EXECUTION_ENV_PATH": environment}
    found = [_engine(settings, parameters)]
    decoupled = settings.triton_config.decoupled
    if decoupled:
        found.append(_unary(parameters))
    if older:
        thin = {"engine_decoupled": str(decoupled).lower(), **parameters}
        found += [_older(name, decoupled, thin) for name in older_names.MODELS]
        text = {"engine": f"../{ENGINE_MODEL}/1/{ENGINE}", **parameters}
        found += [_preprocessing(text), _postprocessing(text)]
    return found


def _engine(settings: ModelSettings, parameters: Mapping[str, str]) -> ModelFolder:
    config = ModelConfig(
        ENGINE_MODEL,
        llmapi.INPUTS,
        llmapi.OUTPUTS,
        parameters=parameters,
        comment=f"{WRITTEN}: an engine, under NVIDIA's llmapi names. 1/{FILE_NAME} says more.",
    )
    files = {"model.py": _code("engine_model", "EngineModel"), FILE_NAME: settings.text()}
    return ModelFolder(config, files)


def _unary(parameters: Mapping[str, str]) -> ModelFolder:
    config = ModelConfig(
        UNARY_MODEL,
        llmapi.INPUTS,
        llmapi.OUTPUTS,
        max_batch_size=0,
        decoupled=False,
        parameters=parameters,
        comment=f"{WRITTEN}: {ENGINE_MODEL} for unary calls, which Triton takes of no model that "
        "streams.",
    )
    return ModelFolder(config, {"model.py": _code("unary_model", "UnaryModel")})


def _older(name: str, decoupled: bool, parameters: Mapping[str, str]) -> ModelFolder:
    config = ModelConfig(
        name,
        older_names.INPUTS,
        older_names.OUTPUTS,
        max_batch_size=1,
        decoupled=decoupled,
        parameters=parameters,
        comment=f"{WRITTEN}: {ENGINE_MODEL} under the names of NVIDIA's older layout.",
    )
    return ModelFolder(config, {"model.py": _code("older_names", "OlderNamesModel")})


def _preprocessing(parameters: Mapping[str, str]) -> ModelFolder:
    config = ModelConfig(
        "preprocessing",
        text_models.PREPROCESSING_INPUTS,
        text_models.PREPROCESSING_OUTPUTS,
        max_batch_size=1,
        decoupled=False,
        parameters=parameters,
        comment=f"{WRITTEN}: text to token ids, under the names of NVIDIA's older layout.",
    )
    return ModelFolder(config, {"model.py": _code("text_models", "PreprocessingModel")})


def _postprocessing(parameters: Mapping[str, str]) -> ModelFolder:
    config = ModelConfig(
        "postprocessing",
        text_models.POSTPROCESSING_INPUTS,
        text_models.POSTPROCESSING_OUTPUTS,
        max_batch_size=1,
        decoupled=False,
        parameters=parameters,
        comment=f"{WRITTEN}: token ids to text, under the names of NVIDIA's older layout.",
    )
    return ModelFolder(config, {"model.py": _code("text_models", "PostprocessingModel")})


def _code(module: str, base: str) -> str:
    """Return a ``model.py``, which has the class that Triton looks for."""
    return (
        f'"""{WRITTEN}; the code is that of the package trtcoder."""\n\n'
        "import triton_python_backend_utils as backend\n"
        f"from trtcoder.runtime.triton.{module} import {base}\n\n\n"
        f"class TritonPythonModel({base}):\n"
        f'    """{base}, told of Triton\'s own module."""\n\n'
        "    backend = backend\n"
    )
