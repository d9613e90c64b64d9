from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from trtcoder.calib.spill import ActivationStore
from trtcoder.cli import main
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint


def test_arrays_beyond_the_cap_are_on_the_disk_and_leave_nothing_behind(tmp_path: Path) -> None:
    store = ActivationStore(100, tmp_path)
    small, large = store.allocate(5, 5), store.allocate(10, 20)
    assert not isinstance(small, np.memmap)
    assert isinstance(large, np.memmap)
    assert (store.in_memory, store.on_disk) == (100, 800)
    large[3] = 7
    assert large.sum() == 140
    # The file has no name, so however the process ends it is gone.
    assert list(tmp_path.iterdir()) == []


def test_a_build_whose_activations_are_on_the_disk_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", tiny_config())
    stores: list[ActivationStore] = []

    def without_memory(cap: int, workspace: Path) -> ActivationStore:
        stores.append(ActivationStore(0, workspace))
        return stores[-1]

    for name in ("memory", "disk"):
        if name == "disk":
            monkeypatch.setattr(
                "trtcoder.export.calibration.calibrate.ActivationStore", without_memory
            )
        options = ["--method", "gptq", "--calibration-tokens", "900", "--tokens", "300"]
        arguments = ["build", str(folder), "--out", str(tmp_path / name), *options]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert stores[0].on_disk > 0
    first, second = ((tmp_path / name / "model.data").read_bytes() for name in ("memory", "disk"))
    assert first == second
