"""The metrics tell a good engine from a bad one, and excuse nothing but ties."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from trtcoder.bundle.comparison import Comparison
from trtcoder.errors import ParityError
from trtcoder.export.parity.logits import kl_divergence, kl_histogram
from trtcoder.export.parity.meter import ParityMeter
from trtcoder.export.parity.routing import select_experts
from trtcoder.export.parity.table import render_table
from trtcoder.export.reference.trace import LayerTrace
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config
from trtcoder.typed_json import plain, read

GREEDY = DeepseekV2Config.from_dict(tiny_config())
GROUPED = DeepseekV2Config.from_dict(tiny_grouped_config())
DENSE = DeepseekV2Config.from_dict(tiny_config(n_routed_experts=None))
TOKENS = 12
IDS = list(range(TOKENS))

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Trace:
    logits: Floats
    hidden: Floats
    router_probabilities: Floats


def random_trace(config: DeepseekV2Config = GREEDY, tokens: int = TOKENS, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    moe = sum(config.is_moe_layer(layer) for layer in range(config.num_hidden_layers))
    scores = np.exp(rng.normal(size=(moe, tokens, config.n_routed_experts)))
    return Trace(
        logits=rng.normal(size=(tokens, config.vocab_size)).astype(np.float32),
        hidden=rng.normal(size=(config.num_hidden_layers, tokens, config.hidden_size)).astype(
            np.float32
        ),
        router_probabilities=(scores / scores.sum(-1, keepdims=True)).astype(np.float32),
    )


def compare(
    reference: Trace,
    engine: Trace,
    config: DeepseekV2Config = GREEDY,
    precision: str = "fp32",
    max_kl: float | None = None,
) -> Comparison:
    meter = ParityMeter(config, precision, max_kl=max_kl)
    meter.add("plain", IDS, 1, 30, reference, engine)
    return meter.report()


def changed(values: Floats, index: Any, value: Any) -> Floats:
    copy = values.copy()
    copy[index] = value
    return copy


def failed_gates(report: Comparison) -> list[str]:
    return [gate.name for gate in report.gates if gate.passed is False]


def with_probabilities(row: Floats) -> Trace:
    """A trace whose every token has the router's probabilities ``row``."""
    trace = random_trace()
    shape = trace.router_probabilities.shape
    return replace(trace, router_probabilities=np.broadcast_to(row, shape).astype(np.float32))


# -- identical and nearly identical engines


@pytest.mark.parametrize("config", [GREEDY, GROUPED, DENSE], ids=["greedy", "grouped", "dense"])
def test_identical_traces_pass_the_strictest_gate_with_zero_error(config: DeepseekV2Config) -> None:
    trace = random_trace(config)
    report = compare(trace, trace, config)
    assert report.verdict == "passed"
    assert report.logits.kl_max == report.logits.max_abs == report.logits.relative_error == 0
    assert report.logits.top1_agreement == 1
    assert all(layer.hidden_max == 0 for layer in report.layers)
    assert [layer.router_agreement is None for layer in report.layers] == [
        not config.is_moe_layer(layer) for layer in range(config.num_hidden_layers)
    ]


def test_rounding_of_float32_passes_the_fp32_gate() -> None:
    trace = random_trace()
    rng = np.random.default_rng(1)
    moved = trace.logits * (1 + 1e-6 * rng.normal(size=trace.logits.shape))
    assert compare(trace, replace(trace, logits=moved.astype(np.float32))).verdict == "passed"


# -- logits


@given(
    arrays(np.float64, (3, 7), elements=st.floats(-80, 80)),
    arrays(np.float64, (3, 7), elements=st.floats(-80, 80)),
)
def test_kl_is_never_negative_and_zero_for_the_same_logits(
    reference: Floats, engine: Floats
) -> None:
    assert (kl_divergence(reference, engine) >= 0).all()
    assert (kl_divergence(reference, reference) == 0).all()


@given(arrays(np.float64, (2, 5), elements=st.floats(-20, 20)), st.floats(-50, 50))
def test_kl_does_not_see_a_constant_added_to_all_logits(logits: Floats, constant: float) -> None:
    assert kl_divergence(logits, logits + constant) == pytest.approx(np.zeros(2), abs=1e-12)


def test_kl_is_what_its_definition_gives() -> None:
    reference, engine = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(reference, engine) == pytest.approx([expected])


def test_the_histogram_counts_every_position_by_the_order_of_its_kl() -> None:
    kl = np.array([0.0, 1e-20, 1.5e-3, 1.6e-3, 0.9, 1e9, np.inf, np.nan])
    histogram = kl_histogram(kl)
    edges, counts = np.array(histogram.edges), np.array(histogram.counts)
    assert len(edges) == len(counts) + 1
    assert (np.diff(edges) > 0).all()
    assert counts.sum() == 7
    assert (counts[0], counts[-1]) == (2, 2)
    assert counts[np.searchsorted(edges, math.log10(1.5e-3)) - 1] == 2
    assert counts[np.searchsorted(edges, math.log10(0.9)) - 1] == 1


def test_a_swap_of_nearly_tied_tokens_is_ambiguous() -> None:
    logits = np.zeros((TOKENS, GREEDY.vocab_size), np.float32)
    logits[:, 7], logits[:, 3] = 10.0, 10.0 - 1e-3
    trace = replace(random_trace(), logits=logits)
    swapped = replace(trace, logits=changed(logits, (4, 3), 10.0 + 1e-4))
    report = compare(trace, swapped)
    assert (report.logits.top1_ambiguous, report.logits.top1_wrong) == (1, 0)
    assert report.logits.top1_agreement == pytest.approx(1 - 1 / TOKENS)


@pytest.mark.parametrize("winner", [3, 200])
def test_a_token_that_does_not_tie_with_the_best_is_wrong(winner: int) -> None:
    # Token 3 is close to the best, 200 far: that a tie exists excuses no third token.
    logits = np.zeros((TOKENS, GREEDY.vocab_size), np.float32)
    logits[:, 7], logits[:, 3], logits[:, 8] = 10.0, 9.9, 10.0 - 1e-4
    trace = replace(random_trace(), logits=logits)
    report = compare(trace, replace(trace, logits=changed(logits, (4, winner), 10.1)))
    assert (report.logits.top1_ambiguous, report.logits.top1_wrong) == (0, 1)


def test_a_large_error_of_the_engine_does_not_make_its_choice_ambiguous() -> None:
    trace = random_trace()
    report = compare(trace, replace(trace, logits=-trace.logits), precision="int4")
    assert report.logits.top1_wrong == TOKENS


def test_relative_error_is_measured_against_the_positions_own_largest_logit() -> None:
    logits = np.ones((TOKENS, GREEDY.vocab_size), np.float32)
    logits[0] *= 100
    trace = replace(random_trace(), logits=logits)
    report = compare(trace, replace(trace, logits=changed(logits, (3, 5), 1.5)))
    assert report.logits.relative_error == pytest.approx(0.5)
    assert report.logits.max_abs == pytest.approx(0.5)


# -- hidden states


def test_an_error_is_reported_for_the_layer_where_it_is() -> None:
    trace = random_trace()
    report = compare(trace, replace(trace, hidden=changed(trace.hidden, 1, trace.hidden[1] * 1.5)))
    assert [round(layer.hidden_max, 6) for layer in report.layers] == [0, 0.5, 0]
    assert report.layers[1].hidden_mean == pytest.approx(0.5)


# -- router


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


# -- gates and verdicts


def noisy(trace: Trace, scale: float) -> Trace:
    rng = np.random.default_rng(2)
    noise = (scale * rng.normal(size=trace.logits.shape)).astype(np.float32)
    return replace(trace, logits=trace.logits + noise)


@pytest.mark.parametrize(
    ("precision", "noise", "verdict"),
    [
        ("fp32", 1e-7, "passed"),
        ("fp32", 1e-2, "failed"),
        ("int8", 1e-2, "passed"),
        ("int8", 1e-1, "failed"),
        ("nvfp4", 1e-1, "passed"),
        ("nvfp4", 5e-1, "failed"),
        ("int4", 1e-1, "passed"),
        ("int4", 3.0, "failed"),
    ],
)
def test_each_precision_is_held_to_its_own_gate(precision: str, noise: float, verdict: str) -> None:
    trace = random_trace()
    report = compare(trace, noisy(trace, noise), precision=precision)
    assert report.verdict == verdict
    assert f"verdict for {precision}: {verdict}" in render_table(report)


def test_fp32_is_held_to_kl_where_large_logits_hide_the_error() -> None:
    logits = np.zeros((TOKENS, GREEDY.vocab_size), np.float32)
    logits[:, [7, 3]] = 50.0
    trace = replace(random_trace(), logits=logits)
    # 8e-5 of the largest logit, but the two tokens' probabilities move by 0.1 %.
    report = compare(trace, replace(trace, logits=changed(logits, (4, 3), 50.004)))
    assert failed_gates(report) == ["KL max"]


def test_a_metric_that_is_nan_does_not_pass_its_limit() -> None:
    trace = random_trace()
    engine = replace(trace, logits=changed(trace.logits, (3, 4), np.nan))
    assert "KL mean" in failed_gates(compare(trace, engine, precision="int8"))


def test_int4_states_every_metric_without_a_limit() -> None:
    trace = random_trace()
    report = compare(trace, noisy(trace, 0.1), precision="int4")
    stated = {gate.name: gate for gate in report.gates if gate.limit is None}
    assert set(stated) == {
        "relative logit error",
        "KL mean",
        "KL max",
        "router disagreements",
        "share of positions after a router tie",
    }
    assert all(gate.passed is None for gate in stated.values())


def constant(trace: Trace) -> Trace:
    """The engine that ignores the context: the mean of the reference's distributions."""
    share = np.exp(trace.logits.astype(np.float64))
    share /= share.sum(-1, keepdims=True)
    fixed = np.broadcast_to(np.log(share.mean(0)), share.shape)
    return replace(trace, logits=fixed.astype(np.float32))


@given(st.integers(1, 40), st.floats(0.1, 12), st.integers(0, 99))
def test_what_the_context_tells_is_the_least_kl_of_a_fixed_answer(
    tokens: int, scale: float, seed: int
) -> None:
    small = tiny_config(num_hidden_layers=1, hidden_size=4, vocab_size=300)
    config = DeepseekV2Config.from_dict(small)
    trace = random_trace(config, tokens, seed)
    trace = replace(trace, logits=trace.logits * np.float32(scale))
    fixed = constant(trace)
    meter = ParityMeter(config, "int4")
    meter.add("plain", list(range(tokens)), 1, 30, trace, fixed)
    logits = meter.report().logits
    assert logits.context_nats is not None
    assert logits.constant_top1 is not None
    # The engine's logits are float32.
    assert logits.kl_mean == pytest.approx(logits.context_nats, rel=1e-5, abs=1e-6)
    other = fixed.logits + np.random.default_rng(seed).normal(size=300).astype(np.float32)
    assert kl_divergence(trace.logits, other).mean() >= logits.context_nats - 1e-6
    assert logits.top1_agreement <= logits.constant_top1 + 1e-9


@pytest.mark.parametrize("precision", ["fp32", "fp8", "nvfp4", "int8", "int4", "mixed"])
@pytest.mark.parametrize(
    "engine",
    [
        constant,
        lambda trace: replace(trace, logits=-trace.logits),
        lambda trace: replace(trace, logits=np.roll(trace.logits, 1, axis=0)),
        lambda trace: replace(trace, logits=np.roll(trace.logits, 1, axis=1)),
    ],
    ids=["a fixed answer", "negated", "of another token", "of another vocabulary"],
)
def test_no_precision_passes_with_an_engine_that_says_something_else(
    precision: str, engine: Callable[[Trace], Trace]
) -> None:
    trace = random_trace()
    trace = replace(trace, logits=4 * trace.logits)
    report = compare(trace, engine(trace), precision=precision, max_kl=100.0)
    assert report.verdict == "failed"
    assert report.quality == "broken"
    assert "share of the context lost" in failed_gates(report)
    assert "broken: it loses" in render_table(report)


def test_a_top_token_that_is_never_the_references_is_broken_however_near_its_logits_are() -> None:
    logits = np.zeros((TOKENS, GREEDY.vocab_size), np.float32)
    rows = np.arange(TOKENS)
    logits[rows, rows], logits[rows, rows + 100] = 9.0, 8.9
    swapped = logits.copy()
    swapped[rows, rows], swapped[rows, rows + 100] = 8.9, 9.0
    trace = replace(random_trace(), logits=logits)
    report = compare(trace, replace(trace, logits=swapped), precision="int4")
    assert failed_gates(report) == ["share of other top tokens"]
    assert report.quality == "broken"
    assert "broken: its gates say why" in render_table(report)


@pytest.mark.parametrize(("noise", "quality"), [(0.01, "good"), (0.3, "poor"), (3.0, "broken")])
def test_the_quality_is_said_in_a_word(noise: float, quality: str) -> None:
    trace = random_trace()
    report = compare(trace, noisy(trace, noise), precision="int4")
    assert report.quality == plain(report)["quality"] == quality
    assert render_table(report).splitlines()[-1].startswith(f"{quality}: it ")


def test_an_engine_that_misses_its_precisions_limit_is_not_good() -> None:
    trace = random_trace()
    report = compare(trace, noisy(trace, 1e-3), precision="fp32")
    assert (report.verdict, report.quality) == ("failed", "poor")
    # A limit that the user chose says nothing about the engine.
    asked = compare(trace, noisy(trace, 1e-2), precision="int4", max_kl=1e-9)
    assert (asked.verdict, asked.quality) == ("failed", "good")


def test_counts_are_written_as_counts() -> None:
    trace = random_trace()
    table = render_table(compare(trace, noisy(trace, 0.3), precision="int4"))
    assert "stated router disagreements: 0 (no limit)" in table
    assert re.search(r"share of the context lost: \d+\.\d\d% \(limit 20\.00%\)", table)


@pytest.mark.parametrize(("max_kl", "verdict"), [(1.0, "passed"), (1e-4, "failed")])
def test_a_limit_that_was_asked_for_gates_int4(max_kl: float, verdict: str) -> None:
    trace = random_trace()
    report = compare(trace, noisy(trace, 0.1), precision="int4", max_kl=max_kl)
    assert report.verdict == verdict


def test_a_looser_limit_does_not_replace_the_precisions_own() -> None:
    trace = random_trace()
    report = compare(trace, noisy(trace, 0.1), precision="int8", max_kl=1.0)
    assert failed_gates(report) == ["KL mean"]


def test_sequences_compared_layer_by_layer_give_what_they_give_one_after_another() -> None:
    traces = [(random_trace(seed=2 * n), random_trace(seed=2 * n + 1)) for n in range(3)]
    whole, advancing = ParityMeter(GREEDY, "int4"), ParityMeter(GREEDY, "int4")
    for wanted, found in traces:
        whole.add("plain", IDS, 1, 30, wanted, found)
    comparisons = [advancing.sequence("plain", IDS, 1, 30) for _ in traces]
    for layer in range(GREEDY.num_hidden_layers):
        for comparison, pair in zip(comparisons, traces, strict=True):
            routed = GREEDY.is_moe_layer(layer)
            comparison.add_layer(
                layer,
                *(
                    LayerTrace(
                        trace.hidden[layer],
                        trace.router_probabilities[layer - 1] if routed else None,
                    )
                    for trace in pair
                ),
            )
    for comparison, (wanted, found) in zip(comparisons, traces, strict=True):
        comparison.add_logits(wanted.logits, found.logits)
    assert advancing.report() == whole.report()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp8", "int8", "int4"])
@pytest.mark.parametrize(
    ("field", "index", "place"),
    [
        ("logits", (3, 4), "engine logits"),
        ("hidden", (2, 3, 4), "engine layers.2 hidden state"),
        ("router_probabilities", (1, 3, 4), "engine layers.2 router"),
    ],
)
def test_values_that_are_not_finite_fail_by_name(
    value: float, precision: str, field: str, index: tuple[int, ...], place: str
) -> None:
    trace = random_trace()
    engine = replace(trace, **{field: changed(getattr(trace, field), index, value)})
    report = compare(trace, engine, precision=precision)
    assert report.verdict == "failed"
    assert f"values not finite in {place}" in failed_gates(report)
    json.dumps(plain(report), allow_nan=False)
    assert report.quality == "broken"
    assert not report.finite
    assert f"values not finite in {place}: 1 (limit 0)" in render_table(report)


@pytest.mark.parametrize(
    ("precision", "value", "failed"),
    [
        ("fp32", 1e-3, ["decode against prefill"]),
        ("int8", 1e-3, []),
        ("int4", np.nan, ["values not finite in engine decoded logits"]),
        ("int8", np.inf, ["values not finite in engine decoded logits"]),
    ],
)
def test_decoding_is_held_to_the_prefill(precision: str, value: float, failed: list[str]) -> None:
    trace = random_trace()
    meter = ParityMeter(GREEDY, precision)
    meter.add("plain", IDS, 1, 30, trace, trace)
    meter.add_decode(trace.logits, trace.logits)
    decoded = changed(trace.logits, (3, 4), trace.logits[3, 4] + 10 * value)
    meter.add_decode(trace.logits, decoded.astype(np.float32))
    assert failed_gates(meter.report()) == failed


# -- text


def test_perplexity_counts_only_the_scored_tokens_of_each_kind() -> None:
    trace = random_trace()
    meter = ParityMeter(GREEDY, "fp32")
    meter.add("plain", IDS, 0, 50, trace, trace)
    meter.add("fim", IDS, 8, 10, trace, trace)
    meter.add("chat", IDS, TOKENS, 0, trace, trace)
    texts = {text.kind: text for text in meter.report().texts}
    assert {kind: text.tokens for kind, text in texts.items()} == {"plain": 11, "fim": 4}
    logits = trace.logits.astype(np.float64)
    log_sums = np.log(np.exp(logits).sum(-1))
    nats = [log_sums[t - 1] - logits[t - 1, IDS[t]] for t in range(8, TOKENS)]
    assert texts["fim"].reference_perplexity == pytest.approx(math.exp(np.mean(nats)))
    assert texts["fim"].engine_nats_per_byte == pytest.approx(sum(nats) / 10)


def test_a_uniform_engine_has_the_perplexity_of_the_vocabulary() -> None:
    trace = random_trace()
    uniform = replace(trace, logits=np.zeros_like(trace.logits))
    (text,) = compare(trace, uniform).texts
    assert text.engine_perplexity == pytest.approx(GREEDY.vocab_size)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=4))
def test_metrics_do_not_depend_on_how_sequences_are_cut_into_rows(lengths: list[int]) -> None:
    config = DeepseekV2Config.from_dict(
        tiny_config(num_hidden_layers=1, hidden_size=4, vocab_size=300)
    )
    meter = ParityMeter(config, "int4")
    kl = []
    for seed, length in enumerate(lengths):
        reference, engine = (random_trace(config, length, 2 * seed + part) for part in (0, 1))
        meter.add("plain", list(range(length)), 0, length, reference, engine)
        kl.append(kl_divergence(reference.logits, engine.logits))
    report = meter.report().logits
    assert report.positions == sum(lengths)
    assert report.kl_mean == pytest.approx(np.concatenate(kl).mean())
    assert report.kl_max == pytest.approx(np.concatenate(kl).max())


# -- report


def test_a_comparison_survives_json() -> None:
    trace = random_trace(GROUPED)
    report = compare(trace, noisy(trace, 0.01), GROUPED, "int8")
    text = json.dumps(plain(report), allow_nan=False)
    assert read(Comparison, json.loads(text)) == report


def test_the_table_has_a_line_for_each_layer_and_fits_the_terminal() -> None:
    trace = random_trace()
    lines = render_table(compare(trace, noisy(trace, 0.01))).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1", "2"]
    assert max(len(line) for line in lines) <= 80


def test_what_cannot_be_compared_is_refused() -> None:
    trace = random_trace()
    meter = ParityMeter(GREEDY, "fp32")
    with pytest.raises(ParityError, match="nothing was compared"):
        meter.report()
    with pytest.raises(ParityError, match="without tokens"):
        meter.add("plain", [], 0, 0, trace, trace)
    with pytest.raises(
        ParityError, match=r"engine logits: expected \[12, 512\], found \[12, 511\]"
    ):
        meter.add("plain", IDS, 0, 0, trace, replace(trace, logits=trace.logits[:, 1:]))
    with pytest.raises(ParityError, match="'fp4' has no gates"):
        ParityMeter(GREEDY, "fp4")
