"""Checkpoints as other tools write them are built; what cannot be judged is said before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trtcoder.bundle.folder import Bundle
from trtcoder.cli import main
from trtcoder.testing.random_checkpoint import (
    tiny_config,
    write_random_checkpoint,
)

TOKENS = ("--tokens", "300")


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / "model", tiny_config())


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_that_transformers_saved_builds_and_verifies(
    folder: Path, tmp_path: Path, tied: bool
) -> None:
    import torch
    import transformers

    auto: Any = transformers
    saved, engine = tmp_path / "saved", tmp_path / "engine"
    torch.manual_seed(0)
    config = auto.DeepseekV2Config.from_dict(tiny_config(tie_word_embeddings=tied))
    model = auto.DeepseekV2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(saved, max_shard_size="300KB")
    auto.AutoTokenizer.from_pretrained(folder).save_pretrained(saved)
    assert (saved / "chat_template.jinja").is_file()
    assert "chat_template" not in json.loads((saved / "tokenizer_config.json").read_text())

    built = run("build", saved, "--out", engine, "--weights", "fp32", *TOKENS)
    assert built.exit_code == 0, built.output
    manifest = Bundle.load(engine).manifest
    assert manifest.capabilities.chat
    assert manifest.chat_format is not None
    assert manifest.tokens.add_bos
    report = tmp_path / "parity.json"
    verified = run("verify", engine, "--reference", saved, "--report", report, *TOKENS)
    assert verified.exit_code == 0, verified.output
    assert "passed" in verified.output


def test_what_is_passed_over_in_a_folder_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "consolidated.safetensors").write_bytes(b"of another format")
    built = run("build", folder, "--out", tmp_path / "engine", "--weights", "fp32", *TOKENS)
    assert built.exit_code == 0, built.output
    report = tmp_path / "parity.json"
    verified = run(
        "verify", tmp_path / "engine", "--reference", folder, "--report", report, *TOKENS
    )
    assert verified.exit_code == 0, verified.output
    for result in (built, verified):
        assert "consolidated.safetensors" in result.stderr
        assert "consolidated.safetensors" not in result.stdout


def test_odd_values_that_are_accepted_build(folder: Path, tmp_path: Path) -> None:
    edit(
        folder / "config.json",
        rms_norm_eps=1,
        use_cache="yes",
        attention_dropout="none",
        hidden_size=128.0,
        bos_token_id=None,
    )
    edit(folder / "tokenizer_config.json", add_bos_token=True, bos_token=None)
    built = run("build", folder, "--out", tmp_path / "engine", "--weights", "fp32", *TOKENS)
    assert built.exit_code == 0, built.output
    assert "add_bos_token" in built.output
    assert Bundle.load(tmp_path / "engine").manifest.tokens.bos is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_attention_heads": 3}, "does not take this configuration"),
        ({"rope_scaling": {**tiny_config()["rope_scaling"], "mscale_all_dim": 0}}, "mscale"),
    ],
)
def test_what_the_reference_cannot_judge_is_said_before_the_conversion(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    folder = write_random_checkpoint(tmp_path / "model", tiny_config(**change))
    result = run("build", folder, "--out", tmp_path / "engine", *TOKENS)
    assert result.exit_code == 1
    assert reason in result.output
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
