"""Which architecture a checkpoint is of: `model_type` of its config.json says it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from trtcoder.checkpoint.side_files import read_text
from trtcoder.errors import CheckpointError, ConfigError
from trtcoder.model.architecture import ModelConfig
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

# Takes the keys of config.json, and how errors name the file.
ReadConfig = Callable[[Mapping[str, Any], str], ModelConfig]
CONFIGS: dict[str, ReadConfig] = {"deepseek_v2": DeepseekV2Config.from_dict}


def load_config(path: Path) -> ModelConfig:
    """Read config.json, or the one in a folder.

    Raises:
        ConfigError: the file is missing, malformed, or asks for what trtcoder cannot do.
    """
    path = path / "config.json" if path.is_dir() else path
    try:
        data = json.loads(read_text(path), parse_constant=_refuse_constant)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds no JSON object")
    return read_config(data, str(path))


def read_config(data: Mapping[str, Any], source: str) -> ModelConfig:
    """Read the keys of ``data`` by its architecture; ``source`` names it in errors.

    Raises:
        ConfigError: no architecture of that name is known, or its own reader refuses a key.
    """
    model_type = data.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIGS:
        shown = "nothing" if model_type is None else repr(model_type)
        raise ConfigError(
            f"{source}: model_type: {shown} is not supported, only {', '.join(sorted(CONFIGS))}"
        )
    return CONFIGS[model_type](data, source)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
