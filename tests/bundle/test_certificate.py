from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.certificates import certificate, old_certificate
from trtcoder.bundle.attachment import attach
from trtcoder.bundle.certificate import FILE_NAME, FORMAT, Certificate, known_provenance
from trtcoder.bundle.provenance import Provenance
from trtcoder.cli import main
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint


def test_verify_carries_over_how_the_weights_came_to_be(tmp_path: Path) -> None:
    source = write_random_checkpoint(tmp_path / "checkpoint", tiny_config())
    engine, report = tmp_path / "engine", tmp_path / "again.json"
    enough = ["--tokens", "100"]
    built = CliRunner().invoke(main, ["build", str(source), "--out", str(engine), *enough])
    assert built.exit_code == 0, built.output
    built_with = json.loads((engine / FILE_NAME).read_text())
    assert built_with["format"] == 2
    histogram = built_with["logits"]["kl_histogram"]
    assert sum(histogram["counts"]) == built_with["logits"]["positions"]
    # A build knows these; a later verification reads them from the certificate in the folder.
    known = {key: certificate()[key] for key in ("tensors", "calibration", "plan")}
    (engine / FILE_NAME).write_text(json.dumps(built_with | known))
    manifest = json.loads((engine / "manifest.json").read_text())
    del manifest["files"][FILE_NAME]  # its hash; what is carried over is no evidence
    (engine / "manifest.json").write_text(json.dumps(manifest))
    # Scores that were added to the engine are linked.
    added = attach(engine, "eval.json", "{}").files["eval.json"].sha256
    link = {"evaluation": {"file": "eval.json", "sha256": added}}
    arguments = ["verify", str(engine), "--reference", str(source), "--report", str(report)]
    verified = CliRunner().invoke(main, [*arguments, *enough])
    assert verified.exit_code == 0, verified.output
    assert json.loads(report.read_text()) == built_with | known | link


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "[1]",
        '{"format": 1}',
        json.dumps(certificate() | {"tensors": 3}),
        json.dumps(certificate() | {"tensors": [{"name": "a"}]}),
        json.dumps(certificate() | {"plan": {}}),
        json.dumps(certificate() | {"format": 99}),
    ],
)
def test_a_certificate_that_cannot_be_read_carries_nothing_over(
    text: str | None, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / FILE_NAME).write_text(text)
    assert known_provenance(tmp_path) == Provenance()


@pytest.mark.parametrize("data", [certificate(), old_certificate()], ids=["format 2", "format 1"])
def test_a_certificate_is_written_as_it_was_read(data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=2, sort_keys=True) + "\n"
    found = Certificate.from_json(text)
    assert Certificate.from_json(found.to_json()) == found
    if found.format == FORMAT:
        assert found.to_json() == text


def test_what_is_not_finite_is_written_as_null_and_read_as_such() -> None:
    found = Certificate.from_json(json.dumps(certificate()))
    broken = dataclasses.replace(
        found, logits=dataclasses.replace(found.logits, kl_mean=math.nan, max_abs=math.inf)
    )
    written = json.loads(broken.to_json())
    assert written["logits"]["kl_mean"] is None
    assert written["logits"]["max_abs"] is None
    assert math.isnan(Certificate.from_json(broken.to_json()).logits.kl_mean)
