from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trtcoder.cli import main
from trtcoder.testing.random_checkpoint import tiny_grouped_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(tiny_grouped_config()))
    return tmp_path


def test_stages_as_text_and_as_json(config: Path) -> None:
    arguments = ["plan", str(config), "--stages", "1", "--stages", "3", "--device", "gb10"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "in 3:" in shown.output
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert [len(plan["stages"]) for plan in found["plans"]] == [1, 3]
    assert found["fewest_stages"] == 1
    assert found["setting"]["device"]["source"].startswith("NVIDIA DGX Spark")
    one, three = found["plans"]
    weights = [sum(s["weights_bytes"] for s in plan["stages"]) for plan in (one, three)]
    assert weights == [found["weights_bytes"]] * 2
    assert three["decode"]["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stages", "9"], "a model of 3 layers has 1 to 3 of them"),
        (["--stages", "1", "--context", "1000000"], "beyond the model's context of 163,840"),
        (["--stages", "1", "--prompt", "1000000"], "--prompt: 1,000,000 is beyond"),
    ],
)
def test_what_cannot_be_planned_is_one_line(config: Path, arguments: list[str], said: str) -> None:
    refused = CliRunner().invoke(main, ["plan", str(config), *arguments])
    assert refused.exit_code == 1
    assert said in refused.output
    assert "Traceback" not in refused.output


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["plan", str(tmp_path)])
    assert refused.exit_code == 1
    assert "config.json" in refused.output
