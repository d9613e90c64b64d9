"""docs/triton.md and deploy/Dockerfile.triton agree with the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from trtcoder.commands.triton import triton
from trtcoder.runtime.triton import llmapi, older_names
from trtcoder.runtime.triton.settings import ModelSettings, TritonConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "triton.md").read_text("utf-8")


def test_every_key_of_model_yaml_is_explained() -> None:
    for key in (
        *(each.name for each in dataclasses.fields(ModelSettings) if each.name != "triton_config"),
        *(f"triton_config.{each.name}" for each in dataclasses.fields(TritonConfig)),
    ):
        assert f"`{key}`" in PAGE, key


def test_every_input_is_named() -> None:
    for each in llmapi.INPUTS:
        short = each.name.removeprefix("sampling_param_")
        ways = (f"`{each.name}`", f"`{short}`", f"`…{short}`")
        assert any(way in PAGE for way in ways) or each.name.startswith("lora_"), each.name


def test_what_requests_on_the_page_send_is_declared() -> None:
    sent = set(re.findall(r'"(\w+)": ', " ".join(re.findall(r"-d '(.*?)'", PAGE, re.DOTALL))))
    known = {each.name for each in (*llmapi.INPUTS, *older_names.INPUTS)}
    assert sent - known <= {"role", "content"}


def test_options_on_the_page_exist() -> None:
    known = {option for each in triton.params for option in each.opts}
    # Of Triton's own program, and of docker's.
    others = {"--model-repository", "--exit-timeout-secs", "--backend-config", "--rm"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known | others


def test_the_image_has_what_models_need() -> None:
    text = (ROOT / "deploy" / "Dockerfile.triton").read_text("utf-8")
    assert '".[cpu,triton]"' in text
    assert "FROM ${TRITON}" in text
