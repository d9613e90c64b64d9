from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.toy_engine import toy_manifest, write_toy_engine
from trtcoder.errors import DependencyError, EngineError, RequestError
from trtcoder.refusals import is_installed
from trtcoder.runtime.ray.app import build
from trtcoder.runtime.ray.settings import RaySettings

DEPLOY = Path(__file__).parents[3] / "deploy"


def engine(folder: Path, name: str) -> Path:
    manifest = toy_manifest()
    model = dataclasses.replace(manifest.model, name=name)
    return write_toy_engine(folder / name, dataclasses.replace(manifest, model=model))


def test_a_command_line_of_texts_is_read(tmp_path: Path) -> None:
    first, second = engine(tmp_path, "One"), engine(tmp_path, "Two")
    settings = RaySettings.of(
        {"engines": f"{first},{second}", "max_replicas": "3", "cpus": "2.5", "insecure": "true"}
    )
    assert settings.named() == {"deepseek-one": first, "deepseek-two": second}
    assert settings.max_replicas == 3
    assert settings.engine().threads == 2
    assert settings.server().insecure


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "engines: Field required"),
        ({"engines": "a", "replicas": 2}, "replicas: Extra inputs"),
        ({"engines": "a", "cpus": 0}, "cpus: Input should be greater than 0"),
        ({"engines": "a", "router": "random"}, "router: String should match"),
        ({"engines": "a", "insecure": True, "min_replicas": 2}, "max_replicas is 1"),
        ({"engines": "a"}, "give api_key_file, or insecure: true"),
    ],
)
def test_arguments_that_are_wrong_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        RaySettings.of(arguments)


def test_keys_are_read_where_there_are_some(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\n")
    server = RaySettings.of({"engines": "a", "api_key_file": str(keys)}).server()
    assert server.api_keys == ("one",)
    assert not server.insecure


def test_two_engines_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = engine(tmp_path / "a", "Same"), engine(tmp_path / "b", "Same")
    settings = RaySettings.of({"engines": [str(first), str(second)], "insecure": True})
    with pytest.raises(RequestError, match="both served as deepseek-same"):
        settings.named()


def test_a_folder_that_is_no_engine_is_refused(tmp_path: Path) -> None:
    settings = RaySettings.of({"engines": [str(tmp_path)], "insecure": True})
    with pytest.raises(EngineError, match="not an engine folder"):
        settings.named()


@pytest.mark.skipif(is_installed("ray"), reason="ray is installed")
def test_without_ray_the_extra_is_named() -> None:
    with pytest.raises(DependencyError, match=r"trtcoder\[ray\]"):
        build({})


def test_the_example_in_deploy_is_read() -> None:
    (application,) = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text())["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    assert RaySettings.of(application["args"]).max_replicas == 4
