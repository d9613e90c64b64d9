"""Experts of another choice are found, and only ties excuse them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export.parity.traces import (
    GREEDY,
    GROUPED,
    TOKENS,
    changed,
    compare,
    failed_gates,
    random_trace,
    with_probabilities,
)
from trtcoder.export.parity.routing import select_experts
from trtcoder.model.deepseek_v2.config import DeepseekV2Config


def test_an_error_is_reported_for_the_layer_where_it_is() -> None:
    trace = random_trace()
    report = compare(trace, replace(trace, hidden=changed(trace.hidden, 1, trace.hidden[1] * 1.5)))
    assert [round(layer.hidden_max, 6) for layer in report.layers] == [0, 0.5, 0]
    assert report.layers[1].hidden_mean == pytest.approx(0.5)


@given(st.permutations(range(16)), st.sampled_from([GREEDY, GROUPED]))
def test_selection_is_the_probable_experts_under_any_order(
    order: list[int], config: DeepseekV2Config
) -> None:
    probabilities = np.zeros((1, 16))
    probabilities[0, order] = np.arange(16, 0, -1) / 136
    chosen = select_experts(probabilities, config)[0]
    groups = sorted({expert // 4: None for expert in order}, key=[e // 4 for e in order].index)
    kept = groups[: config.topk_group] if config is GROUPED else groups
    expected = [expert for expert in order if expert // 4 in kept][:4]
    assert chosen.tolist() == sorted(expected)


def test_group_limited_selection_ranks_groups_by_their_best_expert_not_their_sum() -> None:
    probabilities = np.full((1, 16), 0.01)
    probabilities[0, [0, 4]] = 0.3, 0.2  # one strong expert each
    probabilities[0, 8:12] = 0.1  # the largest sum
    assert set(select_experts(probabilities, GROUPED)[0] // 4) == {0, 1}


@pytest.mark.parametrize("config", [GREEDY, GROUPED], ids=["greedy", "grouped"])
def test_permuted_experts_are_found_in_their_layer(config: DeepseekV2Config) -> None:
    trace = random_trace(config)
    routers = trace.router_probabilities
    permuted = changed(routers, 1, np.roll(routers[1], 1, axis=-1))
    report = compare(trace, replace(trace, router_probabilities=permuted), config)
    assert failed_gates(report) == ["router disagreements"]
    assert report.layers[1].router_wrong == 0
    wrong = report.layers[2].router_wrong
    assert wrong is not None
    assert wrong > 0
    assert report.layers[2].router_ties == 0


NEAR_TIE = np.array([0.2, 0.2, 0.2, 0.1, 0.1 * (1 - 5e-6), *[0.02] * 11])
NEAR_TIE_SWAPPED = NEAR_TIE[[0, 1, 2, 4, 3, *range(5, 16)]]


def test_experts_swapped_within_a_tie_are_counted_apart_and_pass() -> None:
    trace = with_probabilities(NEAR_TIE)
    swapped = changed(trace.router_probabilities, (0, slice(8, 11)), NEAR_TIE_SWAPPED)
    report = compare(trace, replace(trace, router_probabilities=swapped))
    assert report.verdict == "passed"
    assert [layer.router_ties for layer in report.layers] == [None, 3, 0]
    assert report.layers[1].router_agreement == 1 - 3 / TOKENS
    assert report.logits.after_tie == TOKENS - 8


def test_what_follows_from_a_tie_is_not_held_against_the_engine_what_precedes_it_is() -> None:
    # Token 8 ties in layer 1: layer 2 may differ at token 8 and later, and so may the logits.
    trace = with_probabilities(NEAR_TIE)
    swapped = changed(trace.router_probabilities, (0, 8), NEAR_TIE_SWAPPED)
    swapped[1, 9] = np.roll(NEAR_TIE, 5)
    engine = replace(trace, router_probabilities=swapped)
    engine = replace(engine, logits=changed(trace.logits, 10, -0.1 * trace.logits[10]))
    report = compare(trace, engine)
    assert report.verdict == "passed"
    assert (report.layers[2].router_after_tie, report.layers[2].router_wrong) == (1, 0)
    assert report.logits.relative_error > 1 > report.logits.judged_relative_error
    assert report.logits.kl_max > report.logits.judged_kl_max == 0

    before = compare(trace, replace(engine, logits=changed(engine.logits, 7, -trace.logits[7])))
    assert failed_gates(before)[:2] == ["relative logit error", "KL max"]
    swapped[1, 7] = np.roll(NEAR_TIE, 5)
    assert failed_gates(compare(trace, engine)) == ["router disagreements"]


def test_a_layer_does_not_excuse_itself_or_the_layers_before_it() -> None:
    trace = with_probabilities(NEAR_TIE)
    swapped = changed(trace.router_probabilities, (1, 8), NEAR_TIE_SWAPPED)
    swapped[0, 9] = swapped[1, 9] = np.roll(NEAR_TIE, 5)
    report = compare(trace, replace(trace, router_probabilities=swapped))
    assert [layer.router_wrong for layer in report.layers] == [None, 1, 1]


def test_ties_that_leave_too_little_to_judge_fail() -> None:
    report = compare(with_probabilities(NEAR_TIE), with_probabilities(NEAR_TIE_SWAPPED))
    assert [layer.router_ties for layer in report.layers] == [None, TOKENS, TOKENS]
    assert failed_gates(report) == [
        "relative logit error",
        "KL max",
        "share of positions after a router tie",
    ]


def test_a_tie_does_not_excuse_another_expert() -> None:
    engine = NEAR_TIE.copy()
    engine[[0, 9]] = engine[[9, 0]]
    report = compare(with_probabilities(NEAR_TIE), with_probabilities(engine))
    assert report.layers[1].router_wrong == TOKENS
    assert failed_gates(report) == ["router disagreements"]


@pytest.mark.parametrize(("gap", "field"), [(5e-6, "router_ties"), (1e-3, "router_wrong")])
def test_groups_swapped_are_a_tie_only_if_their_best_experts_tie(gap: float, field: str) -> None:
    row = np.full(16, 0.01)
    row[0], row[4], row[8] = 0.3, 0.2, 0.2 * (1 - gap)
    engine = row.copy()
    engine[[4, 8]] = engine[[8, 4]]
    traces = [
        replace(
            random_trace(GROUPED),
            router_probabilities=np.broadcast_to(values, (2, TOKENS, 16)).astype(np.float32),
        )
        for values in (row, engine)
    ]
    report = compare(
        traces[0], replace(traces[0], router_probabilities=traces[1].router_probabilities), GROUPED
    )
    assert getattr(report.layers[1], field) == TOKENS
