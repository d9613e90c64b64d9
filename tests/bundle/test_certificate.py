from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trtcoder.cli import main
from trtcoder.export.parity.certificate import FILE_NAME, Provenance
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

TENSORS = [{"name": "lm_head/weight", "snr_db": 21.5}]


def test_verify_carries_over_how_the_weights_came_to_be(tmp_path: Path) -> None:
    source = write_random_checkpoint(tmp_path / "checkpoint", tiny_config())
    engine, report = tmp_path / "engine", tmp_path / "again.json"
    enough = ["--tokens", "100"]
    built = CliRunner().invoke(main, ["build", str(source), "--out", str(engine), *enough])
    assert built.exit_code == 0, built.output
    certificate = json.loads((engine / FILE_NAME).read_text())
    assert certificate["format"] == 2
    histogram = certificate["logits"]["kl_histogram"]
    assert sum(histogram["counts"]) == certificate["logits"]["positions"]
    # A build knows these; a later verification reads them from the certificate in the folder.
    known = {"tensors": TENSORS, "calibration": {"method": "gptq"}, "plan": {"bits": 4.1}}
    (engine / FILE_NAME).write_text(json.dumps(certificate | known))
    manifest = json.loads((engine / "manifest.json").read_text())
    del manifest["files"][FILE_NAME]  # its hash; what is carried over is no evidence
    (engine / "manifest.json").write_text(json.dumps(manifest))
    arguments = ["verify", str(engine), "--reference", str(source), "--report", str(report)]
    verified = CliRunner().invoke(main, [*arguments, *enough])
    assert verified.exit_code == 0, verified.output
    assert json.loads(report.read_text()) == certificate | known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Provenance()),
        ("{", Provenance()),
        ("[1]", Provenance()),
        ('{"format": 1}', Provenance()),
        ('{"tensors": 3, "calibration": [], "plan": "x"}', Provenance()),
        ('{"tensors": [1, {"name": "a"}], "plan": {}}', Provenance([{"name": "a"}], None, {})),
    ],
)
def test_a_certificate_that_cannot_be_read_carries_nothing_over(
    text: str | None, expected: Provenance, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / FILE_NAME).write_text(text)
    assert Provenance.of_engine(tmp_path) == expected
