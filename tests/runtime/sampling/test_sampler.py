from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.errors import EngineError, RequestError
from trtcoder.runtime.sampling.candidates import draw as draw_from
from trtcoder.runtime.sampling.candidates import keep_nucleus, largest, log_sum_exp
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.sampling.sampler import Sampler

# Sixteenths: equal scores are exactly equal, and no two differ by less than exponentials can tell.
scores = st.lists(st.integers(-320, 320).map(lambda value: value / 16), min_size=2, max_size=30)


def brute_force(
    logits: np.ndarray, params: SamplingParams, prompt: Sequence[int], answer: Sequence[int]
) -> dict[int, float]:
    """The distribution by the letter of the documented order, one token at a time."""
    values = [float(value) for value in logits]
    for token in {*prompt, *answer}:
        penalty = params.repetition_penalty or 1.0
        values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
    for token, count in Counter(answer).items():
        values[token] -= params.frequency_penalty * count + params.presence_penalty
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    temperature, top_p = params.temperature or 0.0, params.top_p or 1.0
    if temperature == 0:
        return {order[0]: 1.0}
    weights = {token: math.exp((values[token] - values[order[0]]) / temperature) for token in order}
    kept = order[: params.top_k or None]
    total = sum(weights[token] for token in kept)
    reached, inside = 0.0, []
    for token in kept:
        if reached >= top_p * total:
            break
        reached += weights[token]
        inside.append(token)
    inside = [
        token for token in inside if weights[token] >= (params.min_p or 0) * weights[order[0]]
    ]
    total = sum(weights[token] for token in inside)
    return {token: weights[token] / total for token in inside}


class FixedDraws:
    """A generator whose draws are given."""

    def __init__(self, draws: Sequence[float]) -> None:
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)


@given(
    logits=scores,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    frequency_penalty=st.sampled_from([0.0, 0.7, -1.5]),
    presence_penalty=st.sampled_from([0.0, 0.4]),
    data=st.data(),
)
def test_the_sampler_draws_from_the_brute_force_distribution(
    logits: list[float],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    frequency_penalty: float,
    presence_penalty: float,
    data: st.DataObject,
) -> None:
    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        seed=0,
    )
    tokens = st.lists(st.integers(0, len(logits) - 1), max_size=4)
    prompt, answer = data.draw(tokens), data.draw(tokens)
    sampler = Sampler(params, prompt, len(logits))
    for chosen in answer:
        sampler._adjust.count(chosen)
    expected = brute_force(np.array(logits, np.float32), params, prompt, answer)
    # Ascending by id: the draw u picks the token whose interval of the cumulative sum holds u.
    edges = np.cumsum([expected[token] for token in sorted(expected)])
    for index, token in enumerate(sorted(expected)):
        low = edges[index - 1] if index else 0.0
        if edges[index] - low < 1e-4:  # too narrow to hit in float arithmetic
            continue
        if any(
            abs(expected[token] - (params.min_p or 0) * max(expected.values())) < 1e-6
            for token in expected
        ):
            continue  # at the threshold, rounding decides
        copy = Sampler(params, prompt, len(logits))
        for chosen in answer:
            copy._adjust.count(chosen)
        copy._random = FixedDraws([(low + edges[index]) / 2])  # type: ignore[assignment]
        assert copy.sample(np.array(logits, np.float32)).token == token


@given(values=scores, k=st.integers(1, 35), copies=st.integers(1, 300))
def test_the_largest_are_found_and_ties_fall_to_lower_ids(
    values: list[float], k: int, copies: int
) -> None:
    array = np.tile(np.array(values, np.float32), copies)
    expected = np.lexsort((np.arange(len(array)), -array))[:k]
    np.testing.assert_array_equal(largest(array, k), expected)


@given(
    weights=st.lists(st.integers(0, 1000), min_size=1, max_size=50).filter(any),
    top_p=st.floats(0.001, 0.999),
    copies=st.integers(1, 200),
)
def test_the_nucleus_is_the_shortest_prefix_that_reaches_top_p(
    weights: list[int], top_p: float, copies: int
) -> None:
    array = np.tile(np.array(weights, np.float32), copies)
    kept = array.copy()
    keep_nucleus(kept, top_p)
    order = np.lexsort((np.arange(len(array)), -array))
    # Sums of whole numbers are exact, so the place where they pass is too.
    count = 1 + int(np.searchsorted(np.cumsum(array[order]), top_p * array.sum(dtype=np.float64)))
    expected = np.zeros_like(array)
    expected[order[:count]] = array[order[:count]]
    np.testing.assert_array_equal(kept, expected)


@given(top_p=st.floats(1e-300, 0.999))
def test_the_nucleus_of_equal_weights_is_never_empty(top_p: float) -> None:
    weights = np.full(7, 1 / 3, np.float32)
    keep_nucleus(weights, top_p)
    assert weights.any()


@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=400).filter(any),
    point=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_falls_where_the_running_sum_passes_it(weights: list[int], point: float) -> None:
    array = np.array(weights, np.float32)
    index = draw_from(array, point)
    sums = np.cumsum(array, dtype=np.float64)
    assert array[index] > 0
    assert sums[index] > point * sums[-1] - 1e-9
    assert sums[index] - array[index] <= point * sums[-1] + 1e-9


@given(st.lists(st.floats(-500, 500, width=32), min_size=1, max_size=300))
def test_log_sum_exp_does_not_overflow(values: list[float]) -> None:
    array = np.array(values, np.float32)
    expected = np.logaddexp.reduce(array.astype(np.float64))
    assert log_sum_exp(array) == pytest.approx(float(expected), rel=1e-6, abs=1e-5)


def test_selection_works_at_the_size_of_a_vocabulary() -> None:
    row = np.random.default_rng(0).normal(0, 3, 102_400).astype(np.float32)
    order = np.argsort(-row, kind="stable")
    for k in (1, 50, 700, 5000):
        np.testing.assert_array_equal(largest(row, k), order[:k])
    for temperature in (0.3, 1.0, 3.0):
        weights = np.exp((row - row.max()) / np.float32(temperature))
        for top_p in (0.05, 0.5, 0.95, 0.999):
            kept = weights.copy()
            keep_nucleus(kept, top_p)
            total = weights.sum(dtype=np.float64)
            mass = kept.sum(dtype=np.float64)
            # Float32 weights round the sums by about 1e-7.
            assert mass >= top_p * total * (1 - 1e-6)
            assert mass - kept[kept > 0].min() <= top_p * total * (1 + 1e-6)
            assert kept[kept > 0].min() >= weights[kept == 0].max()


def draw(params: SamplingParams, count: int = 40) -> list[int]:
    logits = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    sampler = Sampler(params, [], len(logits))
    return [sampler.sample(logits.copy()).token for _ in range(count)]


def test_the_same_seed_gives_the_same_tokens_and_another_one_does_not() -> None:
    first = draw(SamplingParams(temperature=1.0, seed=7))
    assert draw(SamplingParams(temperature=1.0, seed=7)) == first
    assert draw(SamplingParams(temperature=1.0, seed=8)) != first


def test_a_drawn_seed_is_reported_so_that_the_answer_can_be_had_again() -> None:
    logits = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    sampler = Sampler(SamplingParams(temperature=1.0), [], 1000)
    tokens = [sampler.sample(logits).token for _ in range(20)]
    assert draw(SamplingParams(temperature=1.0, seed=sampler.seed), 20) == tokens


def test_frequencies_follow_the_softmax() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    sampler = Sampler(SamplingParams(temperature=1.0, seed=3), [], 3)
    counts = Counter(sampler.sample(logits).token for _ in range(4000))
    assert [counts[token] / 4000 for token in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_greedy_takes_the_lowest_of_equal_maxima_and_draws_nothing() -> None:
    sampler = Sampler(SamplingParams(), [], 4)
    sampler._random = FixedDraws([])  # type: ignore[assignment]
    assert sampler.sample(np.array([1, 5, 5, 2], np.float32)).token == 1


def test_the_least_temperature_is_greedy_and_does_not_overflow() -> None:
    sampler = Sampler(SamplingParams(temperature=1e-3, seed=0), [], 3)
    assert sampler.sample(np.array([-1e30, 3, 1], np.float32)).token == 1


def test_a_frequency_penalty_grows_with_each_use() -> None:
    sampler = Sampler(SamplingParams(frequency_penalty=1.0), [0, 0, 0], 2)
    logits = np.array([2.5, 0.0], np.float32)
    assert [sampler.sample(logits.copy()).token for _ in range(5)] == [0, 0, 0, 1, 0]


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    params = SamplingParams(repetition_penalty=100.0, logprobs=2)
    sample = Sampler(params, [0], 3).sample(logits + 5)
    assert sample.token == 1
    assert sample.logprob == pytest.approx(math.log([0.6, 0.3, 0.1][sample.token]), abs=1e-5)
    assert [token for token, _ in sample.top_logprobs] == [0, 1]
    assert [math.exp(value) for _, value in sample.top_logprobs] == pytest.approx([0.6, 0.3])
    assert Sampler(SamplingParams(logprobs=0), [], 3).sample(logits).top_logprobs == ()
    assert len(Sampler(SamplingParams(logprobs=9), [], 3).sample(logits).top_logprobs) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(bad: float, temperature: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature), [], 3)
    with pytest.raises(EngineError, match="not finite"):
        sampler.sample(np.array([1, bad, 2], np.float32))


@pytest.mark.parametrize(
    ("name", "value", "bounds"),
    [
        ("temperature", -0.1, "a number at least 0 and at most 1e+06"),
        ("temperature", 1e-308, "0 or at least 0.001"),
        ("temperature", 1e300, "a number at least 0 and at most 1e+06"),
        ("temperature", math.nan, "a number at least 0 and at most 1e+06"),
        ("temperature", "hot", "a number at least 0 and at most 1e+06"),
        ("temperature", True, "a number at least 0 and at most 1e+06"),
        ("top_p", 0.0, "a number above 0 and at most 1"),
        ("top_p", 1.01, "a number above 0 and at most 1"),
        ("min_p", -1, "a number at least 0 and at most 1"),
        ("repetition_penalty", 0, "a number at least 0.01 and at most 100"),
        ("repetition_penalty", 1e-38, "a number at least 0.01 and at most 100"),
        ("repetition_penalty", 1e38, "a number at least 0.01 and at most 100"),
        ("frequency_penalty", 2.5, "a number at least -2 and at most 2"),
        ("presence_penalty", -3, "a number at least -2 and at most 2"),
        ("top_k", -1, "a whole number from 0 to 2147483647"),
        ("top_k", 1.5, "a whole number from 0 to 2147483647"),
        ("seed", -1, "a whole number from 0 to 18446744073709551615"),
        ("logprobs", 21, "a whole number from 0 to 20"),
        ("n", 0, "a whole number from 1 to 128"),
        ("max_tokens", 0, "a whole number from 1 to 2147483647"),
        ("stop", 5, "a string or a list of strings"),
        ("stop", ["a", 5], "a string or a list of strings"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(name: str, value: object, bounds: str) -> None:
    with pytest.raises(RequestError, match=f"^{name} is .*; it must be {re.escape(bounds)}$"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"stop": ""}, "stop: an empty string would stop at once"),
        ({"stop": ["a", ""]}, "stop: an empty string would stop at once"),
        ({"stop": ["a"] * 33}, "stop has 33 strings; at most 32 are taken"),
        ({"stop_token_ids": 5}, "stop_token_ids is 5; it must be a list"),
        ({"stop_token_ids": [-1]}, "stop_token_ids is -1; it must be a whole number"),
        ({"logit_bias": {5: 101}}, r"logit_bias\[5\] is 101; it must be a number at least -100"),
        ({"logit_bias": {"x": 1}}, "logit_bias: a token id is 'x'"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens is 3; it must be at most max_tokens, 2"),
    ],
)
def test_parameters_that_contradict_are_refused(params: dict[str, object], error: str) -> None:
    with pytest.raises(RequestError, match=error):
        SamplingParams(**params)  # type: ignore[arg-type]


def test_a_stop_that_is_one_string_is_that_string() -> None:
    assert SamplingParams(stop="return").stop == ("return",)


def test_what_a_request_leaves_open_is_the_engines_default() -> None:
    defaults = SamplingParams(temperature=0.3, top_p=0.95)
    found = SamplingParams(top_p=0.5).resolved(defaults)
    assert (found.temperature, found.top_p, found.top_k) == (0.3, 0.5, 0)
    assert found.repetition_penalty == 1.0


def test_extreme_penalties_keep_logits_finite() -> None:
    logits = np.array([80.0, -80.0, 1.0], np.float32)
    for penalty in (0.01, 100.0):
        params = SamplingParams(temperature=1.0, repetition_penalty=penalty, seed=0)
        sampler = Sampler(params, [0, 1, 2], 3)
        assert sampler.sample(logits.copy()).token in (0, 1, 2)


def test_a_bias_is_added_and_may_ban_or_force() -> None:
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    for bias, token in (({2: -100.0}, 1), ({"0": 100.0}, 0)):
        sampler = Sampler(SamplingParams(logit_bias=bias), [], 3)  # type: ignore[arg-type]
        assert sampler.sample(logits.copy()).token == token
