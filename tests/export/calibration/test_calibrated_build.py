"""Builds that look at calibration text, from the command line."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from tests.engines import probe, write_checkpoint
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.writer import BundleWriter
from trtcoder.calib.quantizers.quantizer import RoundToNearest
from trtcoder.cli import main
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import OnnxRuntime
from trtcoder.export.targets.target import write_engine
from trtcoder.export.weights.journal import Journal
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import (
    tiny_config,
    tiny_grouped_config,
    write_random_checkpoint,
)

DEMO = Path(__file__).parents[3] / "demo" / "checkpoint"
QUICK = ["--tokens", "300", "--calibration-tokens", "1500", "--min-expert-tokens", "4"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def built(checkpoint: Path, out: Path, *options: str | Path) -> dict[str, Any]:
    result = run("build", checkpoint, "--out", out, *QUICK, "--json", *options)
    assert result.exit_code == 0, result.output
    parity: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])["parity"]
    return parity


@pytest.fixture(scope="module", params=["lite", "236b"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config() if request.param == "lite" else tiny_grouped_config()
    folder = tmp_path_factory.mktemp("calibrated") / "checkpoint"
    return write_random_checkpoint(folder, config)


@pytest.mark.parametrize("method", ["clip", "gptq", "awq", "awq+gptq"])
def test_every_method_builds_both_architectures(
    checkpoint: Path, tmp_path: Path, method: str
) -> None:
    parity = built(checkpoint, tmp_path / "engine", "--method", method)
    methods = {tensor["class"]: tensor["method"] for tensor in parity["tensors"]}
    assert methods["attention"] == methods["experts_down"] == methods["lm_head"] == method
    # Rows that are looked up multiply nothing.
    assert methods["embedding"] == "rtn"
    assert methods["router"] == methods["norms"] == "exact"
    assert parity["calibration"]["method"] == method
    assert parity["calibration"]["tokens"] >= 1500
    experts = parity["calibration"]["experts"]
    assert {len(counts) for counts in experts["tokens"].values()} == {16}


def test_calibrated_values_lose_less_than_rounded_ones(tmp_path: Path) -> None:
    options = ["--tokens", "1500", "--calibration-tokens", "4000"]
    kl = {
        method: built(DEMO, tmp_path / method, *options, "--method", method)["weights_only_kl"]
        for method in ("rtn", "gptq")
    }
    # 0.54 of it at 16,384 tokens of calibration, measured on all held-out text.
    assert kl["gptq"] < 0.75 * kl["rtn"]


def test_an_interrupted_build_goes_on_behind_the_last_whole_stage_to_the_same_bytes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--method", "awq+gptq"]
    built(checkpoint, tmp_path / "whole", *options)
    finish = Journal.finish_stage

    def interrupted(journal: Journal, number: int, *finished: Any) -> None:
        if number == 3:
            raise KeyboardInterrupt
        finish(journal, number, *finished)

    monkeypatch.setattr(Journal, "finish_stage", interrupted)
    stopped = run("build", checkpoint, "--out", tmp_path / "part", *QUICK, *options)
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.output
    monkeypatch.undo()
    built(checkpoint, tmp_path / "part", *options)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "part")
    )
    assert first == second


def test_experts_without_enough_tokens_are_rounded_and_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    parity = built(
        checkpoint, tmp_path / "e", "--method", "gptq", "--calibration-tokens", "40",
        "--min-expert-tokens", "190",
    )  # fmt: skip
    short = parity["calibration"]["experts"]["short"]
    assert short
    assert all(tokens < 190 for _, _, tokens in short)
    fallbacks = {t["name"]: t["fallback"] for t in parity["tensors"] if t["fallback"]}
    for layer, expert, tokens in short:
        for role in ("gate", "up", "down"):
            reason = fallbacks[f"layers.{layer}/moe/experts/{role}[{expert}]"]
            assert reason == f"reached by {tokens} calibration tokens, 190 needed"
    by_name = {t["name"]: t["method"] for t in parity["tensors"]}
    assert {by_name[name] for name in fallbacks} == {"rtn"}


def test_what_is_judged_never_calibrates(tmp_path: Path) -> None:
    text = tmp_path / "held.jsonl"
    lines = "\n".join(f"value_{index} = compute({index})" for index in range(60))
    text.write_text(json.dumps({"kind": "plain", "text": lines}) + "\n")
    folder = write_random_checkpoint(tmp_path / "checkpoint", tiny_config())
    result = run(
        "build", folder, "--out", tmp_path / "e", *QUICK, "--method", "clip", "--text", text,
        "--calibration", text,
    )  # fmt: skip
    assert result.exit_code == 1
    assert "1 of them held out" in result.output


def test_a_folder_of_source_files_calibrates(checkpoint: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    for index in range(6):
        body = "\n".join(f"def f{index}_{n}(x):\n    return x * {n}\n" for n in range(40))
        (sources / f"part{index}.py").write_text(body)
    parities = [
        built(checkpoint, tmp_path / name, "--method", "clip", "--calibration", sources, "--seed",
              seed)
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    ]  # fmt: skip
    first, same, other = (parity["calibration"] for parity in parities)
    assert first == same
    assert first["digest"] != other["digest"]
    assert set(first["kinds"]) == {"plain", "fim", "chat"}


class RandomScales(RoundToNearest):
    """Scales the channels of every activation by what a search might find."""

    rescales = True

    def __init__(self) -> None:
        self.widths: dict[str, int] = {}

    def input_scale(self, activation: str) -> NDArray[np.float32] | None:
        if activation not in self.widths:
            return None
        # By the name, since steps ask in any order.
        rng = np.random.default_rng(zlib.crc32(activation.encode()))
        return np.exp(rng.normal(0, 1, self.widths[activation])).astype(np.float32)


@pytest.mark.parametrize("config", [tiny_config(), tiny_grouped_config()], ids=["lite", "236b"])
def test_scaled_channels_leave_the_model_as_it_is(config: dict[str, Any], tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "checkpoint", config)
    logits = []
    for name, quantizer in (("plain", RoundToNearest()), ("scaled", RandomScales())):
        plan = OnnxRuntime().plan(source, preset("fp32"), quantizer)
        if isinstance(quantizer, RandomScales):
            quantizer.widths = {
                m.activation: m.source.width for m in plan.weights.matrices.values() if m.activation
            }
        with BundleWriter(tmp_path / name) as writer:
            write_engine(plan, writer.folder)
            writer.commit(plan.manifest(read_prompting(source), source.digest()))
        trace = probe(Bundle.load(tmp_path / name), source).run(list(range(40)))
        logits.append(trace.logits)
    # Scaling up and down costs roundings of float32, a few 1e-7 each; a forgotten scale, a third.
    plain, scaled = logits
    np.testing.assert_allclose(scaled, plain, atol=1e-5 * np.abs(plain).max())
