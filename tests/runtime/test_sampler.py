from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.errors import EngineError, RequestError
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.sampling.sampler import Sampler, nucleus, top_k_ids

# Sixteenths: equal scores are exactly equal, and no two differ by less than exponentials can tell.
scores = st.lists(st.integers(-320, 320).map(lambda value: value / 16), min_size=2, max_size=30)


def brute_force(
    logits: np.ndarray, params: SamplingParams, prompt: Sequence[int], answer: Sequence[int]
) -> dict[int, float]:
    """The distribution by the letter of the documented order, one token at a time."""
    values = [float(value) for value in logits]
    for token in {*prompt, *answer}:
        penalty = params.repetition_penalty
        values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
    for token, count in Counter(answer).items():
        values[token] -= params.frequency_penalty * count + params.presence_penalty
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if params.temperature == 0:
        return {order[0]: 1.0}
    weights = {
        token: math.exp((values[token] - values[order[0]]) / params.temperature) for token in order
    }
    kept = order[: params.top_k or None]
    total = sum(weights[token] for token in kept)
    reached, inside = 0.0, []
    for token in kept:
        if reached >= params.top_p * total:
            break
        reached += weights[token]
        inside.append(token)
    inside = [token for token in inside if weights[token] >= params.min_p * weights[order[0]]]
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
        sampler._penalties.count(chosen)
    expected = brute_force(np.array(logits, np.float32), params, prompt, answer)
    # Ascending by id: the draw u picks the token whose interval of the cumulative sum holds u.
    edges = np.cumsum([expected[token] for token in sorted(expected)])
    for index, token in enumerate(sorted(expected)):
        low = edges[index - 1] if index else 0.0
        if edges[index] - low < 1e-4:  # too narrow to hit in float arithmetic
            continue
        if any(
            abs(expected[token] - params.min_p * max(expected.values())) < 1e-6
            for token in expected
        ):
            continue  # at the threshold, rounding decides
        copy = Sampler(params, prompt, len(logits))
        for chosen in answer:
            copy._penalties.count(chosen)
        copy._random = FixedDraws([(low + edges[index]) / 2])  # type: ignore[assignment]
        assert copy.sample(np.array(logits, np.float32)).token == token


@given(values=scores, k=st.integers(0, 35))
def test_top_k_keeps_exactly_k_and_ties_fall_to_lower_ids(values: list[float], k: int) -> None:
    array = np.array(values, np.float32)
    found = top_k_ids(array, k)
    expected = sorted(sorted(range(len(array)), key=lambda i: (-array[i], i))[: k or None])
    assert (list(range(len(array))) if found is None else list(found)) == expected


@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=50),
    top_p=st.floats(0.001, 1.0),
)
def test_the_nucleus_is_the_shortest_prefix_that_reaches_top_p(
    weights: list[int], top_p: float
) -> None:
    array = np.array(weights, np.float64)
    found = nucleus(array, top_p)
    kept = range(len(weights)) if found is None else found
    mass = sum(weights[i] for i in kept) / sum(weights)
    lowest = min(weights[i] for i in kept)
    assert mass >= top_p - 1e-12
    if top_p < 1.0:
        assert mass - lowest / sum(weights) < top_p + 1e-12
    assert all(weights[i] <= lowest for i in set(range(len(weights))) - set(kept))


@given(top_p=st.floats(1e-300, 0.999))
def test_the_nucleus_of_equal_weights_is_never_empty(top_p: float) -> None:
    found = nucleus(np.full(7, 1 / 3), top_p)
    assert found is not None
    assert len(found) >= 1


def draw(params: SamplingParams, count: int = 40) -> list[int]:
    logits = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    sampler = Sampler(params, [], len(logits))
    return [sampler.sample(logits).token for _ in range(count)]


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


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    sampler = Sampler(SamplingParams(temperature=1e-308, seed=0), [], 3)
    assert sampler.sample(np.array([-1e30, 3, 1], np.float32)).token == 1


def test_the_given_logits_are_not_changed() -> None:
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    sampler = Sampler(
        SamplingParams(temperature=0.5, repetition_penalty=2.0, frequency_penalty=1.0, seed=0),
        [0, 1],
        3,
    )
    for _ in range(3):
        sampler.sample(logits)
    np.testing.assert_array_equal(logits, [1, 2, 3])


def test_a_frequency_penalty_grows_with_each_use() -> None:
    sampler = Sampler(SamplingParams(frequency_penalty=1.0), [0, 0, 0], 2)
    logits = np.array([2.5, 0.0], np.float32)
    assert [sampler.sample(logits).token for _ in range(5)] == [0, 0, 0, 1, 0]


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
        ("temperature", -0.1, "a number at least 0"),
        ("temperature", math.nan, "a number at least 0"),
        ("temperature", "hot", "a number at least 0"),
        ("temperature", True, "a number at least 0"),
        ("top_p", 0.0, "a number above 0 and at most 1"),
        ("top_p", 1.01, "a number above 0 and at most 1"),
        ("min_p", -1, "a number at least 0 and at most 1"),
        ("repetition_penalty", 0, "a number above 0"),
        ("frequency_penalty", 2.5, "a number at least -2 and at most 2"),
        ("presence_penalty", -3, "a number at least -2 and at most 2"),
        ("top_k", -1, "a whole number of at least 0"),
        ("top_k", 1.5, "a whole number of at least 0"),
        ("top_k", None, "a whole number of at least 0"),
        ("seed", -1, "a whole number from 0 to 18446744073709551615"),
        ("logprobs", 21, "a whole number from 0 to 20"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(name: str, value: object, bounds: str) -> None:
    with pytest.raises(RequestError, match=f"^{name} is .*; it must be {bounds}$"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]
