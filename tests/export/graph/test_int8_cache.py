from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engines import build_engine, inner_values, write_checkpoint
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()


@pytest.mark.parametrize("config", [tiny_config(), tiny_grouped_config()], ids=["lite", "full"])
def test_attention_sees_what_the_int8_cache_holds(
    config: dict[str, object], tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "checkpoint", config)
    engine = build_engine(source, tmp_path / "engine", cache="int8")
    name = "layers.1/attention"
    entry, codes, scales, rows = inner_values(
        engine, IDS, f"{name}/latent", "cache.1.out", "cache_scale.1.out", f"{name}/cache_rows"
    )
    # Groups of 32 values: what divides both the latent's width and the rotary key's.
    grouped = entry.reshape(50, -1, 32)
    wanted_scales = np.abs(grouped).max(axis=2) * np.float32(1 / 127)
    np.testing.assert_array_equal(scales[:50], wanted_scales)
    wanted = np.rint(grouped / wanted_scales[..., None])
    assert np.abs(wanted).max() == 127
    np.testing.assert_array_equal(codes[:50], wanted.reshape(50, -1))
    stands_for = (wanted * wanted_scales[..., None]).astype(np.float32)
    np.testing.assert_array_equal(rows[:50], stands_for.reshape(50, -1))
    assert not rows[50:].any()
