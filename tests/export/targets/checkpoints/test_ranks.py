"""A checkpoint that is split over ranks computes what it computes whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.export.targets.checkpoints.ranks import Ranks
from tests.quantized_checkpoints import FORMS, build, full_like, lite_like
from tests.reference import NumpyReference
from tests.reference.quantized import QuantizedWeights
from tests.reference.weights import Float64
from trtcoder.testing.random_checkpoint import write_random_checkpoint

TOKENS = [5, 300, 17, 44, 291, 8, 101, 5, 77, 350, 12, 6]
# Wide enough for eight ranks: 1,024 rows and columns wherever a matrix is cut.
WIDE = {
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "v_head_dim": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 8,
    "moe_intermediate_size": 128,
    "intermediate_size": 1024,
}
KINDS = {"lite": lite_like, "236b": full_like}
Made = Callable[[str, str], tuple[Path, Float64]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("ranks")

    @cache
    def build_one(kind: str, form: str) -> tuple[Path, Float64]:
        source, out = folder / kind, folder / f"{kind}-{form}"
        if not source.exists():
            write_random_checkpoint(source, KINDS[kind](**WIDE))
        build(source, out, *FORMS[form], "--no-gate")
        whole = NumpyReference(out, QuantizedWeights(out)).run(TOKENS).logits
        return out, whole

    return build_one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["fp8-block", "fp8-modelopt", "nvfp4", "int4-128", "int4-64-zp"])
@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 8)])
def test_ranks_together_compute_what_one_does(
    made: Made, kind: str, form: str, tp: int, ep: int
) -> None:
    folder, whole = made(kind, form)
    ranks = Ranks(folder, tp, ep)
    if cuts_blocks(form, tp // ep):
        # The experts' 128 columns are one block or group, which no loader cuts.
        with pytest.raises(AssertionError, match="does not divide"):
            ranks.layers(ranks.embed(TOKENS), [0, 1])
        return
    stream = ranks.embed(TOKENS)
    # Two stages of a pipeline: the second one gets nothing but the stream.
    stream = ranks.layers(stream, [0])
    later = Ranks(folder, tp, ep)
    logits = later.logits(later.layers(stream, [1]))
    np.testing.assert_allclose(logits, whole, atol=1e-9 * np.abs(whole).max())


def cuts_blocks(form: str, parts: int) -> bool:
    """Return whether experts of 128 columns would be cut within a block or group."""
    sizes = {"fp8-block": 128, "int4-128": 128, "int4-64-zp": 64, "nvfp4": 16, "fp8-modelopt": 1}
    size = sizes[form]
    return bool(128 // parts % size)
