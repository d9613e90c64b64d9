from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.record import RESULTS, environment, keep

FILES = sorted(RESULTS.glob("*.json"))


def test_there_are_results() -> None:
    assert {path.stem for path in FILES} >= {"fp8", "lite", "parity", "quality", "samples", "speed"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_result_says_hardware_versions_and_command(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))["environment"]
    # A benchmark of several models has a file for each, NAME-MODEL.json.
    name = path.stem.partition("-")[0]
    assert found["command"].startswith(f"python -m benchmarks.{name}")
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert {"trtcoder", "onnxruntime", "numpy", "torch", "transformers"} <= set(found["packages"])
    assert all(found["packages"].values())


def test_what_is_recorded_is_read_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.record.RESULTS", tmp_path)
    figures: dict[str, Any] = {
        "rows": {"a": {"kl": [1e-5, -2, 3.5], "notes": ["one [1, 2]", "two"], "none": []}},
    }
    keep("some", figures, "gguf")
    found = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))
    assert found == {"environment": environment("gguf"), **figures}
    assert found == json.loads(capsys.readouterr().out)
    assert found["environment"]["packages"]["gguf"] == "0.19.0"
