from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from trtcoder.bundle.folder import Bundle
from trtcoder.calib.text.heldout import load_heldout
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cli import main
from trtcoder.export.recipe import SCHEMED
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import (
    FULL_CONFIG,
    tiny_config,
    tiny_grouped_config,
    write_random_checkpoint,
)

TOKENS = ["--tokens", "300"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "checkpoint"
    return write_random_checkpoint(folder, tiny_config())


def test_a_build_is_verified_and_carries_its_certificate(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    enough = ["--tokens", "1200"]  # for text of every kind
    result = run("build", checkpoint, "--out", out, "--weights", "fp32", "--json", *enough)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    parity = json.loads((out / "parity.json").read_text())
    assert printed["parity"] == parity
    assert parity["verdict"] == "passed"
    assert parity["logits"]["relative_error"] < 1e-4
    gates = {gate["name"]: gate for gate in parity["gates"]}
    assert gates["decode against prefill"]["measured"] < 1e-5
    assert {"onnxruntime", "transformers", "torch"} <= set(parity["reference"]["versions"])
    assert {text["kind"] for text in parity["texts"]} == {"plain", "fim", "chat", "far"}
    assert Bundle.load(out).manifest.parity is not None
    again = run("verify", out, "--reference", checkpoint, "--report", tmp_path / "p.json", *enough)
    assert again.exit_code == 0, again.output
    assert "verdict for fp32: passed" in again.output
    assert json.loads((tmp_path / "p.json").read_text()) == parity
    assert "passed, good, KL mean" in run("inspect", out).output


def test_int4_is_held_to_the_floor_and_called_good(checkpoint: Path, tmp_path: Path) -> None:
    result = run("build", checkpoint, "--out", tmp_path / "engine", *TOKENS)
    assert result.exit_code == 0, result.output
    assert "verdict for int4: passed\ngood: it keeps 98." in result.output
    assert "passed, good" in run("inspect", tmp_path / "engine").output
    shown = json.loads(run("inspect", tmp_path / "engine", "--json").output)
    assert shown["parity"]["quality"] == "good"


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that int4 breaks: one weight in each block leaves the others no step."""
    folder = tmp_path_factory.mktemp("coarse") / "checkpoint"
    write_random_checkpoint(folder, tiny_config())
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, values in tensors.items():
            if values.ndim == 2 and ("mlp" in name or "attn" in name) and "gate.weight" not in name:
                values[:, ::16] *= 30
        save_file(tensors, path)
    return folder


def test_a_broken_engine_is_not_built_unless_asked(coarse: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    options = ["--out", str(out), *TOKENS]
    refused = run("build", coarse, *options)
    assert refused.exit_code == 1
    assert "share of the context lost is" in refused.output
    assert not out.exists()
    kept = run("build", coarse, *options, "--no-gate", "--json")
    assert kept.exit_code == 0, kept.output
    built = json.loads(kept.stdout)
    assert (built["parity"]["verdict"], built["parity"]["quality"]) == ("failed", "broken")
    assert "failed, broken" in run("inspect", out).output
    assert run("report", out, "--out", tmp_path / "page.html").exit_code == 0
    assert "broken: it loses" in (tmp_path / "page.html").read_text()


def test_fp8_is_recorded_with_what_its_matmuls_take(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    options = ["--weights", "fp8", "--fp8-scales", "tensor", "--cache", "fp8"]
    result = run("build", checkpoint, "--out", out, *options, *TOKENS)
    assert result.exit_code == 0, result.output
    assert "verdict for fp8: passed" in result.output
    recipe = Bundle.load(out).manifest.recipe
    assert recipe["activations"] == "dynamic"
    assert recipe["cache"] == "fp8"
    kept = {"embedding": "fp32", "lm_head": "fp32"}
    assert recipe["schemes"] == dict.fromkeys(SCHEMED, "fp8 e4m3 tensor") | kept


def test_a_missed_gate_leaves_the_report_and_no_engine(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    limit = ["--weights", "int4", "--max-kl", "1e-9"]
    result = run("build", checkpoint, "--out", out, *limit, *TOKENS)
    assert result.exit_code == 1
    assert "misses its parity gate" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["engine.parity.json"]
    assert json.loads((tmp_path / "engine.parity.json").read_text())["verdict"] == "failed"


def test_json_is_printed_whether_the_gate_is_kept_or_not(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "engine"), "--json", "--weights", "int4", *TOKENS]
    passed = run("build", checkpoint, *options)
    missed = run("build", checkpoint, *options, "--force", "--max-kl", "1e-9")
    assert (passed.exit_code, missed.exit_code) == (0, 1)
    first, second = (json.loads(result.stdout) for result in (passed, missed))
    assert first.keys() == second.keys()
    assert (first["engine"], second["engine"]) == (str(tmp_path / "engine"), None)
    assert second["parity"]["verdict"] == "failed"
    assert missed.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    ("package", "extra"),
    [("torch", "verify"), ("transformers", "verify"), ("onnxruntime", "cpu"), ("numba", "build"),
     ("blake3", "build"), ("onnx_ir", "build")],
)  # fmt: skip
def test_a_missing_package_is_said_before_anything_is_done(
    checkpoint: Path, tmp_path: Path, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    engine = tmp_path / "engine"
    for command in (
        ["build", str(checkpoint), "--out", str(engine)],
        ["verify", str(engine), "--reference", str(checkpoint)],
    ):
        result = run(*command)
        assert result.exit_code == 1
        expected = f"Error: {package} is not installed; pip install 'trtcoder[{extra}]'"
        assert result.output.splitlines() == [expected]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_said_before_anything_is_done(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    result = run("build", checkpoint, "--out", tmp_path / "engine")
    assert result.exit_code == 1
    assert re.search(r"engine: takes [\d.]+ MB, and 0\.0 MB are free", result.output)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_is_not_overwritten_unless_asked(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    assert run("build", checkpoint, "--out", out, "--weights", "fp32", *TOKENS).exit_code == 0
    before = (out / "manifest.json").read_bytes()
    refused = run("build", checkpoint, "--out", out, *TOKENS)
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert (out / "manifest.json").read_bytes() == before
    assert run("build", checkpoint, "--out", out, "--force", *TOKENS).exit_code == 0
    assert (out / "manifest.json").read_bytes() != before


def test_another_checkpoint_is_no_reference(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    assert run("build", checkpoint, "--out", out, "--weights", "fp32", *TOKENS).exit_code == 0
    other = write_random_checkpoint(tmp_path / "other", tiny_config(), seed=9)
    result = run("verify", out, "--reference", other, "--report", tmp_path / "p.json")
    assert result.exit_code == 1
    assert "was built from checkpoint" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--block-size", "24"], "power of two"),
        (["--weights", "fp32", "--text", "missing.jsonl"], "missing.jsonl: cannot be read"),
        (["--weights", "int3"], "'int3' is not one of"),
        (["--activations", "dynamic"], "activations: only for --weights fp8, not for int4"),
        (["--fp8-scales", "block"], "fp8 scales: only for --weights fp8, not for int4"),
    ],
)
def test_bad_input_is_one_line(
    checkpoint: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run("build", checkpoint, "--out", tmp_path / "engine", *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_models_without_fim_training_say_so(tmp_path: Path) -> None:
    sizes = {key: FULL_CONFIG[key] for key in ("num_hidden_layers", "n_routed_experts")}
    config = tiny_grouped_config(
        **sizes, hidden_size=5120, n_group=8, topk_group=3, intermediate_size=64,
        moe_intermediate_size=16, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=16,
        v_head_dim=16, q_lora_rank=16, num_attention_heads=1, first_k_dense_replace=59,
        n_shared_experts=None,
    )  # fmt: skip
    source = Checkpoint.open(write_random_checkpoint(tmp_path / "large", config))
    assert source.config.published_name == "DeepSeek-Coder-V2"
    assert not read_prompting(source).capabilities.fim
    assert read_prompting(source, fim=True).capabilities.fim


@pytest.mark.parametrize(
    "line",
    ['{"kind": "plain"}', "[]", "{", '{"kind": "poem", "text": "x"}', '{"kind": "chat"}'],
)
def test_malformed_held_out_text_is_named_by_its_line(
    checkpoint: Path, tmp_path: Path, line: str
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"kind": "plain", "text": "x = 1"}\n' + line + "\n")
    result = run("build", checkpoint, "--out", tmp_path / "engine", "--text", text, *TOKENS)
    assert result.exit_code == 1
    assert "text.jsonl, line 2" in result.output


def test_held_out_text_is_taken_in_turn_by_kind(checkpoint: Path, tmp_path: Path) -> None:
    from tests.engines import build_engine

    engine = build_engine(Checkpoint.open(checkpoint), tmp_path / "engine")
    found = load_heldout(Prompts.load(engine.folder, engine.manifest), 3000)
    assert [sequence.kind for sequence in found[:6]] == ["plain", "fim", "chat"] * 2
    tokens = engine.manifest.tokens
    for sequence in found:
        assert sequence.ids[0] == tokens.bos
        assert sequence.ids.count(tokens.bos) == 1
        assert 0 < sequence.scored_from < len(sequence.ids)
        assert (tokens.fim_hole in sequence.ids) == (sequence.kind == "fim")
