"""Each precision is held to its gates, and what is not finite passes none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export.parity.traces import (
    GREEDY,
    IDS,
    TOKENS,
    Trace,
    changed,
    compare,
    constant,
    failed_gates,
    noisy,
    random_trace,
)
from trtcoder.export.parity.logits import kl_divergence
from trtcoder.export.parity.meter import ParityMeter
from trtcoder.export.parity.table import render_table
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config
from trtcoder.typed_json import plain


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
