from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.attention import Cache, Layer, Shape, attend, pack, random_texts, run_all
from tests.plugins.kernels import library

LIBRARY = library()
ISAS = LIBRARY.isas


# Of an int8 cache in groups of 64 tiles take many lanes and vectors a few.
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([1, 3, 16, 17]), st.sampled_from([64, 128, 192]),
    st.lists(st.integers(1, 150), min_size=1, max_size=2), st.integers(0, 40),
    st.sampled_from([1, 2, 3]), st.data(),
)  # fmt: skip
def test_whole_groups_of_int8_have_the_same_bits_in_tiles_and_vectors(
    seed: int, heads: int, latent: int, lengths: list[int], gap: int, threads: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    shape = Shape(heads, 6, 64, latent, 5)
    layer = Layer.random(rng, shape, "float32")
    texts, rows = random_texts(rng, shape, lengths, gap)
    LIBRARY.set_threads(1)
    expected_bits = run_all("portable", layer, texts, Cache("int8", shape, rows))
    LIBRARY.set_threads(threads)
    for isa in ISAS[1:]:
        cache = Cache("int8", shape, rows)
        np.testing.assert_array_equal(run_all(isa, layer, texts, cache), expected_bits, isa)
        token = data.draw(st.integers(0, lengths[0] - 1))
        alone = attend(isa, layer, *pack(texts[:1], [(token, token + 1)]), cache)
        np.testing.assert_array_equal(alone[0], expected_bits[token], isa)
