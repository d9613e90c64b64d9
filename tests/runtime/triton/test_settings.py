from __future__ import annotations

from pathlib import Path

import pytest

from trtcoder.errors import EngineError
from trtcoder.runtime.triton.settings import ModelSettings, TritonConfig


def test_a_file_that_was_written_reads_as_it_was(tmp_path: Path) -> None:
    for settings in (
        ModelSettings(),
        ModelSettings(
            model='a "quoted" Ü',
            threads=3,
            context=512,
            gap_seconds=0.25,
            speculate=False,
            triton_config=TritonConfig(decoupled=False, cancellation_check_period_ms=20),
        ),
    ):
        path = tmp_path / "model.yaml"
        path.write_text(settings.text(), encoding="utf-8")
        assert ModelSettings.read(path) == settings


def test_what_the_engine_shares_reaches_it() -> None:
    assert ModelSettings().engine_settings().speculate is None
    assert ModelSettings(speculate=False).engine_settings().speculate is False


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("# nothing\n")
    assert ModelSettings.read(path) == ModelSettings()
    path.write_text("max_batch: 2\ntriton_config:\n  stream_deltas: true\n")
    found = ModelSettings.read(path)
    assert found.engine_settings().max_batch == 2
    assert found.triton_config == TritonConfig(stream_deltas=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_batches: 3", "unknown max_batches"),
        ("max_batch: many", "max_batch: expected an integer"),
        ("triton_config:\n  max_batch_size: 8", "triton_config.max_batch_size is 8; it must be 0"),
        ("triton_config:\n  cancellation_check_period_ms: 0", "it must be from 1 to 60000"),
        ("triton_config:\n  decoupled: maybe", "triton_config.decoupled: expected true or false"),
        ("a: [", "not YAML"),
        ("- 3", "expected an object"),
        ("!!python/object/apply:os.system [ls]", "not YAML"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(EngineError) as caught:
        ModelSettings.read(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"model\.yaml: there is no such file"):
        ModelSettings.read(tmp_path / "model.yaml")
