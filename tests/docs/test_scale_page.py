"""docs/scale.md shows what `trtcoder plan` says, and the devices that there are."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from trtcoder.cli import main
from trtcoder.export.scale.machines import DEVICES, LINKS
from trtcoder.runtime.ray.settings import RaySettings
from trtcoder.testing.random_checkpoint import FULL_CONFIG

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text("utf-8")
PLANS = re.findall(r"```text\n\$ trtcoder (plan \S+.*?)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("command", "shown"), PLANS, ids=[command for command, _ in PLANS])
def test_the_page_shows_what_the_command_says(command: str, shown: str, tmp_path: Path) -> None:
    arguments = shlex.split(command)
    assert arguments[1] == "DeepSeek-Coder-V2-Instruct"
    (tmp_path / "config.json").write_text(json.dumps(FULL_CONFIG))
    arguments[1] = str(tmp_path)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert done.output == shown


def test_the_page_has_plans() -> None:
    assert len(PLANS) == 4


def test_the_page_lists_the_devices_and_links_with_their_sources() -> None:
    for name, device in DEVICES.items():
        row = f"| `{name}` | {device.memory / 1e9:g} | {device.bandwidth / 1e9:,.0f} "
        assert f"{row}| {device.compute / 1e12:g} | {device.source} |" in PAGE
    for name, link in LINKS.items():
        row = f"| `{name}` | {link.bandwidth / 1e9:g} | {link.latency * 1e6:g} "
        assert f"{row}| {link.source} |" in PAGE


def test_the_page_lists_every_argument_of_the_application_on_ray() -> None:
    section = PAGE.partition("## Ray Serve")[2].partition("## Kubernetes")[0]
    listed = set(re.findall(r"`([a-z_]+)`", section))
    assert RaySettings.model_fields.keys() <= listed
