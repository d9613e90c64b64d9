"""What a calibrated build stores does not depend on which of a stage's steps comes first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.quantized_checkpoints import FORMS, build, full_like, lite_like
from trtcoder.export.weights import writer
from trtcoder.export.weights.plan import Step
from trtcoder.testing.random_checkpoint import write_random_checkpoint

STATIC = ["--weights", "fp8", "--activations", "static"]
CALIBRATED = {
    **{method: ["--method", method] for method in ("clip", "gptq", "awq", "awq+gptq")},
    "fp8": STATIC,
    "fp8, a scale a matrix": [*STATIC, "--fp8-scales", "tensor"],
    "int4 checkpoint": [*FORMS["int4-64-zp"], "--method", "awq+gptq"],
    "fp8 checkpoint": FORMS["fp8-modelopt"],
    "nvfp4 checkpoint": FORMS["nvfp4"],
}


@pytest.fixture(scope="module", params=[lite_like, full_like])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("order") / "source", request.param())


@pytest.mark.parametrize("form", CALIBRATED)
def test_the_order_of_steps_leaves_no_trace(
    checkpoint: Path, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_together = writer._Writer._run
    made = []
    for is_reversed in (False, True):

        def run(
            self: writer._Writer, steps: Iterable[Step], is_reversed: bool = is_reversed
        ) -> None:
            for step in sorted(steps, key=lambda step: step.key, reverse=is_reversed):
                run_together(self, [step])

        monkeypatch.setattr(writer._Writer, "_run", run)
        out = tmp_path / f"reversed-{is_reversed}"
        build(checkpoint, out, *CALIBRATED[form], "--no-gate")
        made.append({path.name: path.read_bytes() for path in out.iterdir() if path.is_file()})
    first, second = made
    assert [name for name in first if first[name] != second.get(name)] == []
    assert first.keys() == second.keys()
