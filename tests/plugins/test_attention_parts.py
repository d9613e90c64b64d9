"""Float32 in tiles of bfloat16: three parts of each number, and a tile's own order of sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.attention import (
    CACHES,
    WEIGHTS,
    Cache,
    Layer,
    Shape,
    attend,
    expected,
    pack,
    random_texts,
    run_all,
)
from tests.plugins.kernels import library

LIBRARY = library()

pytestmark = pytest.mark.skipif("amx" not in LIBRARY.isas, reason="this machine has no tiles")


# One token of up to sixteen heads parts rows as it goes; more lanes take rows that are parted
# before, two tiles of lanes at a time or one. Prompts go through in calls of 128 tokens.
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([1, 5, 16, 17, 48]),
    st.sampled_from([1, 15, 40, 64, 130, 512]), st.sampled_from([2, 6, 64]),
    st.sampled_from(CACHES), st.sampled_from(WEIGHTS), st.integers(1, 300), st.integers(0, 40),
    st.sampled_from([1, 2, 3]), st.data(),
)  # fmt: skip
def test_a_token_alone_has_the_bits_that_it_has_in_a_prompt(
    seed: int, heads: int, latent: int, rope: int, kind: str, weights: str, length: int, gap: int,
    threads: int, data: st.DataObject,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    shape = Shape(heads, 40, rope, latent, 24)
    layer = Layer.random(rng, shape, weights)
    texts, rows = random_texts(rng, shape, [length], gap)
    LIBRARY.set_threads(threads)
    cache = Cache(kind, shape, rows)
    prompt = run_all("amx", layer, texts, cache, "float32")
    for count in (1, 1, 2, 5):
        first = data.draw(st.integers(0, max(0, length - count)))
        batch = pack(texts, [(first, min(first + count, length))])
        some = attend("amx", layer, *batch, cache, "float32")
        np.testing.assert_array_equal(some, prompt[first : first + count], f"{count} tokens")


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_parts_are_no_less_exact_than_float32(kind: str, weights: str) -> None:
    # A product less would be 2^-16 off. The other sums are in one row of multiply-adds.
    rng = np.random.default_rng(8)
    shape = Shape(16, 128, 64, 512, 128)
    layer = Layer.random(rng, shape, weights)
    layer.softmax_scale = 0.02
    texts, rows = random_texts(rng, shape, [200])
    batch = pack(texts, [(0, 200)])
    errors = {}
    for isa in ("avx512", "amx"):
        cache = Cache(kind, shape, rows)
        found = attend(isa, layer, *batch, cache)
        wanted = expected(layer, *batch, cache)
        errors[isa] = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
    # With matrices in bfloat16 nothing is left out, and tiles round their sums less often.
    share = 0.5 if weights == "bfloat16" else 1
    assert errors["amx"] <= share * errors["avx512"] < 1e-6, errors


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30, 1e38])
def test_a_rows_size_does_not_reach_who_does_not_see_it(size: float) -> None:
    # Tiles multiply it with weights of 0, and make 0 of what is too small for them.
    rng = np.random.default_rng(9)
    shape = Shape(3, 6, 64, 512, 5)
    layer = Layer.random(rng, shape, "float32")
    texts, rows = random_texts(rng, shape, [40])
    plain = run_all("amx", layer, texts, Cache("float32", shape, rows))
    texts[0].tokens.key_rope[39] = size * np.sign(rng.standard_normal(64))
    cache = Cache("float32", shape, rows)
    found = run_all("amx", layer, texts, cache)
    assert np.isfinite(cache.entries[texts[0].slots[39]]).all()
    np.testing.assert_array_equal(found[:39], plain[:39])
