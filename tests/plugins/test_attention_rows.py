"""Rows of DeepSeek-V2's width, which a decoded token reads where they lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.attention import (
    BLOCK,
    Cache,
    Layer,
    Shape,
    attend,
    has_bits_of_its_own,
    pack,
    random_texts,
    run_all,
)
from tests.plugins.kernels import library

LIBRARY = library()
ISAS = LIBRARY.isas
ROPE, LATENT = 64, 512


def shape_of(heads: int) -> Shape:
    return Shape(heads, 6, ROPE, LATENT, 5)


# A prompt's rows are copied for the lanes of its tokens; a token of at most sixteen heads reads
# whole blocks in the cache itself.
@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([2, 9, 16]), st.sampled_from(["float32", "int8"]),
    st.integers(BLOCK, 150), st.integers(0, 40), st.sampled_from([1, 3]), st.data(),
)  # fmt: skip
def test_rows_have_the_same_bits_where_they_lie_and_copied(
    seed: int, heads: int, kind: str, length: int, gap: int, threads: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    layer = Layer.random(rng, shape_of(heads), "bfloat16")
    texts, rows = random_texts(rng, layer.shape, [length], gap)
    tokens = [
        data.draw(st.integers(1, length // BLOCK), "blocks") * BLOCK - 1,
        data.draw(st.integers(0, length - 1), "token"),
    ]
    LIBRARY.set_threads(threads)
    cache = Cache(kind, layer.shape, rows)
    portable_bits = run_all("portable", layer, texts, cache)
    for isa in ISAS:
        whole = run_all(isa, layer, texts, Cache(kind, layer.shape, rows))
        if not has_bits_of_its_own(isa, kind, "bfloat16"):
            np.testing.assert_array_equal(whole, portable_bits, isa)
        for token in tokens:
            alone = attend(isa, layer, *pack(texts, [(token, token + 1)]), cache)
            np.testing.assert_array_equal(alone[0], whole[token], f"{isa}, token {token}")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("poisoned", [0, 17, 40])
def test_a_row_that_is_not_finite_is_left_out_of_what_lies_in_the_cache(
    isa: str, poisoned: int
) -> None:
    rng = np.random.default_rng(3)
    layer = Layer.random(rng, shape_of(16), "float32")
    texts, rows = random_texts(rng, layer.shape, [64])
    cache = Cache("float32", layer.shape, rows)
    clean = run_all(isa, layer, texts, cache)
    cache.entries[texts[0].slots[poisoned]] = np.nan
    for token in (15, 31, 47, 62):
        alone = attend(isa, layer, *pack(texts, [(token, token + 1)]), cache)[0]
        if token >= poisoned:
            assert np.isnan(alone).all()
        else:
            np.testing.assert_array_equal(alone, clean[token])
