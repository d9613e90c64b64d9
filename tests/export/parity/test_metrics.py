"""The metrics tell a good engine from a bad one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.export.parity.traces import (
    DENSE,
    GREEDY,
    GROUPED,
    IDS,
    TOKENS,
    Floats,
    changed,
    compare,
    noisy,
    random_trace,
)
from trtcoder.bundle.comparison import Comparison
from trtcoder.errors import ParityError
from trtcoder.export.parity.logits import kl_divergence, kl_histogram
from trtcoder.export.parity.meter import ParityMeter
from trtcoder.export.parity.table import render_table
from trtcoder.export.reference.trace import LayerTrace
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config
from trtcoder.typed_json import plain, read


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
