from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.attention import (
    ARITHMETICS,
    BLOCK,
    CACHES,
    WEIGHTS,
    Batch,
    Cache,
    Layer,
    Shape,
    Text,
    Tokens,
    attend,
    entries,
    expected,
    has_bits_of_its_own,
    pack,
    random_texts,
    run_all,
)
from tests.plugins.kernels import library
from trtcoder.errors import EngineError

LIBRARY = library()
ISAS = LIBRARY.isas
BEST = ISAS[-1]
SHAPES = st.builds(
    Shape,
    heads=st.sampled_from([1, 2, 3, 5, 16, 17]),
    nope=st.integers(1, 20),
    rope=st.sampled_from([2, 4, 6, 8, 32, 64]),
    latent=st.sampled_from([1, 7, 16, 20, 48, 64, 100, 130, 192, 200, 256]),
    value=st.integers(1, 40),
)
CACHE_KINDS = st.sampled_from(CACHES)
THREADS = st.sampled_from([1, 2, 3])
LITE = Shape(16, 128, 64, 512, 128)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), SHAPES, st.lists(st.integers(1, 90), min_size=1, max_size=3),
    st.integers(0, 6), CACHE_KINDS, st.sampled_from(WEIGHTS), st.sampled_from(ARITHMETICS),
    THREADS,
)  # fmt: skip
def test_attention_is_the_formula(
    seed: int, shape: Shape, lengths: list[int], gap: int, kind: str, weights: str,
    arithmetic: str, threads: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    layer = Layer.random(rng, shape, weights)
    texts, rows = random_texts(rng, shape, lengths, gap)
    cache = Cache(kind, shape, rows)
    tokens, batch = pack(texts, [(0, n) for n in lengths], order=rng.permutation(sum(lengths)))
    LIBRARY.set_threads(threads)
    found = attend(BEST, layer, tokens, batch, cache, arithmetic)
    wanted = expected(layer, tokens, batch, cache)
    # Scores of about 50 have errors of 50 * 2^-23 a term; int16 rounds queries to 2^-16.
    tolerance = 1e-3 if kind == "int8" and arithmetic == "int16" else 3e-5
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32), SHAPES, st.lists(st.integers(1, 70), min_size=1, max_size=2),
    CACHE_KINDS, st.sampled_from(WEIGHTS), st.sampled_from(ARITHMETICS),
)  # fmt: skip
def test_every_instruction_set_gives_the_same_bits(
    seed: int, shape: Shape, lengths: list[int], kind: str, weights: str, arithmetic: str
) -> None:
    rng = np.random.default_rng(seed)
    layer = Layer.random(rng, shape, weights)
    texts, rows = random_texts(rng, shape, lengths)
    LIBRARY.set_threads(1)
    outputs = []
    for isa in ISAS:
        cache = Cache(kind, shape, rows)
        outputs.append((run_all(isa, layer, texts, cache, arithmetic), cache))
    wanted, written = outputs[0]
    for isa, (out, cache) in zip(ISAS[1:], outputs[1:], strict=True):
        np.testing.assert_array_equal(cache.bits, written.bits)
        # An odd group has no pairs of whole numbers, and is multiplied in float32.
        kind_of_sums = "float32" if shape.group % 2 else arithmetic
        if has_bits_of_its_own(isa, kind, weights, kind_of_sums):
            # Each may be as far from the formula as that test allows.
            np.testing.assert_allclose(out, wanted, rtol=0, atol=6e-5 * np.abs(wanted).max())
        else:
            np.testing.assert_array_equal(out, wanted)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32), SHAPES, st.lists(st.integers(1, 150), min_size=1, max_size=3),
    st.integers(0, 40), CACHE_KINDS, st.sampled_from(WEIGHTS), st.sampled_from(ISAS[1:] or ISAS),
    THREADS,
)  # fmt: skip
def test_a_tokens_bits_do_not_depend_on_its_batch(
    seed: int, shape: Shape, lengths: list[int], gap: int, kind: str, weights: str, isa: str,
    threads: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    layer = Layer.random(rng, shape, weights)
    texts, rows = random_texts(rng, shape, lengths, gap)
    alone = []
    LIBRARY.set_threads(1)
    for text in texts:
        alone.append(run_all(isa, layer, [text], Cache(kind, shape, rows)))

    # All texts again, elsewhere in the cache, in chunks of any size and order.
    blocks = rng.permutation(rows // BLOCK)
    moved = [
        Text(text.tokens, text.positions, np.where(text.table < 0, -1, blocks[text.table]))
        for text in texts
    ]
    LIBRARY.set_threads(threads)
    cache = Cache(kind, shape, rows)
    done = np.zeros(len(texts), int)
    while (done < lengths).any():
        ends = np.minimum(done + rng.integers(0, 80, len(texts)), lengths)
        parts = list(zip(done.tolist(), ends.tolist(), strict=True))
        owner = np.repeat(np.arange(len(texts)), ends - done)
        within = np.concatenate([np.arange(*part) for part in parts]).astype(int)
        order = rng.permutation(len(owner))
        tokens, batch = pack(moved, parts, order)
        found = attend(isa, layer, tokens, batch, cache)
        for row, token in zip(found, order, strict=True):
            np.testing.assert_array_equal(row, alone[owner[token]][within[token]])
        done = ends


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("isa", ISAS[1:])
def test_decoding_has_the_bits_of_prefill_over_several_spans(isa: str, kind: str) -> None:
    rng = np.random.default_rng(5)
    shape = Shape(4, 8, 8, 24, 8)
    layer = Layer.random(rng, shape, "float32")
    (text,), rows = random_texts(rng, shape, [1300])
    cache = Cache(kind, shape, rows)
    LIBRARY.set_threads(2)
    prefilled = run_all(isa, layer, [text], cache)
    for threads in (1, 2, 3, 8):
        LIBRARY.set_threads(threads)
        for position in (63, 64, 511, 512, 1023, 1024, 1299):
            tokens, batch = pack([text], [(position, position + 1)])
            found = attend(isa, layer, tokens, batch, cache)
            np.testing.assert_array_equal(found[0], prefilled[position], f"{threads} {position}")


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_widths_of_lite(kind: str, weights: str) -> None:
    rng = np.random.default_rng(6)
    layer = Layer.random(rng, LITE, weights)
    layer.softmax_scale = 0.1147
    texts, rows = random_texts(rng, LITE, [70, 9])
    cache = Cache(kind, LITE, rows)
    LIBRARY.set_threads(2)
    found = run_all(BEST, layer, texts, cache)
    tokens, batch = pack(texts, [(0, 70), (0, 9)])
    wanted = expected(layer, tokens, batch, cache)
    tolerance = 1e-3 if kind == "int8" else 5e-5
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("isa", ISAS[1:])
def test_heads_of_236b_read_each_row_together(isa: str) -> None:
    rng = np.random.default_rng(7)
    shape = Shape(128, 16, 64, 512, 16)
    layer = Layer.random(rng, shape, "float32")
    (text,), rows = random_texts(rng, shape, [66])
    cache = Cache("int8", shape, rows)
    run_all(isa, layer, [text], cache)
    tokens, batch = pack([text], [(64, 66)])
    found = attend(isa, layer, tokens, batch, cache, "float32")
    wanted = expected(layer, tokens, batch, cache)
    assert np.abs(found - wanted).max() <= 5e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 6, 8, 15, 16, 17, 64, 65])
def test_heads_multiply_any_number_of_tokens_alike(tokens: int, weights: str, isa: str) -> None:
    # Few tokens take the matrices row by row, many column by column, in groups of some of them.
    rng = np.random.default_rng(tokens)
    shape = Shape(2, 100, 4, 112, 72)
    layer = Layer.random(rng, shape, weights, block=32)
    texts, rows = random_texts(rng, shape, [1] * tokens)
    cache = Cache("float32", shape, rows)
    LIBRARY.set_threads(2)
    found = run_all(isa, layer, texts, cache)
    batch = pack(texts, [(0, 1)] * tokens)
    wanted = expected(layer, *batch, cache)
    assert np.abs(found - wanted).max() <= 5e-5 * np.abs(wanted).max()
    alone = run_all(isa, layer, [texts[-1]], Cache("float32", shape, rows))
    np.testing.assert_array_equal(found[-1], alone[0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"absorb_value": None}, "weights of the heads are missing"),
        ({"absorb_key_scales": None}, "scales of the heads' weights are missing"),
        ({"weight_block": 0}, "a block of 0 rows"),
    ],
)
def test_weights_in_8_bits_need_scales(changed: dict[str, Any], message: str) -> None:
    rng = np.random.default_rng(8)
    layer = Layer.random(rng, Shape(), "int8")
    (text,), rows = random_texts(rng, Shape(), [3])
    tokens, batch = pack([text], [(0, 3)])
    with pytest.raises(EngineError, match=message):
        attend(BEST, layer, tokens, batch, Cache("float32", Shape(), rows), **changed)


def test_sequences_may_share_blocks() -> None:
    rng = np.random.default_rng(9)
    shape = Shape()
    layer = Layer.random(rng, shape, "float32")
    (text,), rows = random_texts(rng, shape, [40])
    cache = Cache("float32", shape, rows)
    whole = run_all(BEST, layer, [text], cache)
    spare = next(b for b in range(rows // BLOCK) if b not in text.table)
    twin = Text(text.tokens, text.positions, np.array([*text.table[:2], spare]))
    tokens, batch = pack([text, twin], [(39, 40), (32, 40)])
    found = attend(BEST, layer, tokens, batch, cache)
    np.testing.assert_array_equal(found, whole[[39, *range(32, 40)]])


@pytest.mark.parametrize("kind", CACHES)
def test_entries_are_stored_as_the_stock_graph_stores_them(kind: str) -> None:
    rng = np.random.default_rng(10)
    shape = Shape(2, 8, 64, 128, 8)
    layer = Layer.random(rng, shape, "float32")
    (text,), rows = random_texts(rng, shape, [50])
    cache = Cache(kind, shape, rows)
    before = cache.bits.copy()
    run_all(BEST, layer, [text], cache)
    exact = entries(layer, text.tokens)
    if kind in ("int8", "float8"):
        assert cache.scales is not None
        scales = cache.scales[text.slots]
        largest = np.abs(exact.reshape(50, -1, 64)).max(-1)
        steps = 127 if kind == "int8" else 448
        np.testing.assert_allclose(scales, largest / steps, rtol=1e-5)
        levels = exact.reshape(50, -1, 64) / scales[..., None].astype(np.float64)
        if kind == "int8":
            wanted = np.rint(levels)
        else:
            wanted = np.clip(levels, -448, 448).astype(np.float32)
            wanted = wanted.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
        found = cache.entries[text.slots].astype(np.float64).reshape(50, -1, 64)
        # A value that lies between two levels may go either way.
        agree = found == wanted
        assert agree.mean() > 0.999
        assert (np.abs(found - levels)[~agree] <= np.abs(wanted - levels)[~agree] + 1e-3).all()
    else:
        tolerance = {"float32": 2e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}[kind]
        found = cache.entries[text.slots].astype(np.float64)
        assert (np.abs(found - exact) <= tolerance * np.abs(exact) + 1e-6).all()
    others = np.setdiff1d(np.arange(rows), text.slots)
    np.testing.assert_array_equal(cache.bits[others], before[others])


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float8"])
def test_narrow_floats_are_rounded_to_the_nearest(kind: str) -> None:
    # The rotated part passes through unchanged where the angle is 0.
    shape = Shape(1, 4, 64, 64, 4)
    rng = np.random.default_rng(11)
    layer = Layer.random(rng, shape, "float32")
    (text,), rows = random_texts(rng, shape, [400])
    exponents = rng.uniform(-30, 15, (400, 64))
    values = (rng.standard_normal((400, 64)) * 2**exponents).astype(np.float32)
    values[0], values[1, 0] = 0, -0.0
    values[2:6] = np.arange(256).reshape(4, 64)  # ties
    still = Tokens(
        text.tokens.query_nope, text.tokens.query_rope, text.tokens.latent, values,
        np.zeros_like(text.tokens.angles),
    )  # fmt: skip
    cache = Cache(kind, shape, rows)
    with np.errstate(all="ignore"):
        run_all(BEST, layer, [Text(still, text.positions, text.table)], cache)
        found = cache.entries[text.slots][:, 64:]
        if kind == "float8":
            assert cache.scales is not None
            values = np.clip(values / cache.scales[text.slots][:, 1:], -448, 448)
        wanted = values.astype(found.dtype)
    np.testing.assert_array_equal(found.astype(np.float32), wanted.astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_only_who_sees_it(isa: str, kind: str, value: float) -> None:
    rng = np.random.default_rng(12)
    shape = Shape(3, 4, 4, 16, 4)
    layer = Layer.random(rng, shape, "float32")
    texts, rows = random_texts(rng, shape, [90, 30])
    LIBRARY.set_threads(2)
    clean = run_all(isa, layer, texts, Cache(kind, shape, rows))
    texts[0].tokens.key_rope[70, 1] = value  # in the second range of the first text
    texts[1].tokens.query_nope[5, 0] = value  # in a query
    found = run_all(isa, layer, texts, Cache(kind, shape, rows))
    assert np.isnan(found[70:90]).all()
    by_head = found[95].reshape(3, 4)
    assert np.isnan(by_head[0]).all()
    np.testing.assert_array_equal(by_head[1:], clean[95].reshape(3, 4)[1:])
    others = [i for i in range(120) if not 70 <= i < 90 and i != 95]
    np.testing.assert_array_equal(found[others], clean[others])


def small() -> tuple[Layer, Tokens, dict[str, Any], Cache]:
    rng = np.random.default_rng(13)
    shape = Shape()
    layer = Layer.random(rng, shape, "float32")
    tokens = Tokens.random(rng, shape, np.arange(3))
    fields = {
        "positions": np.array([0, 1, 2]),
        "slots": np.array([16, 17, 18]),
        "sequences": np.array([0, 0, 0]),
        "block_table": np.array([[1, -1]]),
    }
    return layer, tokens, fields, Cache("float32", shape, 32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": [16, 17, 32]}, r"slots\[2\] is 32; the cache has 32 rows"),
        ({"slots": [16, -1, 18]}, r"slots\[1\] is -1"),
        ({"slots": [16, 17, 17]}, "17 is there twice"),
        ({"sequences": [0, 1, 0]}, r"sequences\[1\] is 1; block_table has 1 rows"),
        ({"sequences": [0, -1, 0]}, r"sequences\[1\] is -1"),
        ({"positions": [0, -1, 2]}, r"positions\[1\] is -1"),
        ({"block_table": [[1, 2]]}, r"block_table\[0, 1\] is 2; the cache has 2 blocks"),
        ({"block_table": [[1, -2]]}, r"block_table\[0, 1\] is -2"),
        ({"block_table": [[-1, 1]]}, r"positions\[0\] is 0, before the first block"),
        ({"block_table": [[-1, -1]]}, "the token sees no row"),
        ({"block_table": [[]]}, "the token sees no row"),
        ({"block_table": np.zeros((0, 2))}, r"block_table has 0 rows"),
    ],
)
def test_a_batch_that_does_not_fit_the_cache_is_refused(
    changed: dict[str, Any], message: str
) -> None:
    layer, tokens, fields, cache = small()
    fields.update({name: np.array(value, np.int64) for name, value in changed.items()})
    before = cache.entries.copy()
    with pytest.raises(EngineError, match=message):
        attend(BEST, layer, tokens, Batch(**fields), cache)
    np.testing.assert_array_equal(cache.entries, before)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rope": 3}, "the rotated part is 3 wide"),
        ({"heads": 0}, "a size is 0"),
        ({"latent": -4}, "a size is -4"),
        ({"group": 3}, "groups of 3"),
        ({"group": 8}, "groups of 8"),
        ({"group": 0}, "groups of 0"),
        ({"scales": None}, "scales are missing"),
        ({"cache_type": 0}, "scales of values that have none"),
        ({"rows": 15}, "the cache has 0 blocks"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changed: dict[str, Any], message: str) -> None:
    layer, tokens, fields, _ = small()
    cache = Cache("int8", layer.shape, 32)
    with pytest.raises(EngineError, match=message):
        attend(BEST, layer, tokens, Batch(**fields), cache, "int16", **changed)


def test_positions_beyond_the_table_see_all_of_it() -> None:
    layer, tokens, fields, cache = small()
    cache.entries[16:] = np.random.default_rng(0).standard_normal((16, layer.shape.width))
    fields["positions"] = np.array([15, 16, 1 << 40])
    found = attend(BEST, layer, tokens, Batch(**fields), cache)
    np.testing.assert_allclose(
        found, expected(layer, tokens, Batch(**fields), cache), rtol=1e-4, atol=1e-5
    )


def test_a_batch_without_tokens_does_nothing() -> None:
    layer, tokens, fields, cache = small()
    for name in ("positions", "slots", "sequences"):
        fields[name] = fields[name][:0]
    assert attend(BEST, layer, tokens[:0], Batch(**fields), cache).shape == (0, 16)
