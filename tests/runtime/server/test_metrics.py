from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.runtime.server.serving import Server, serve
from tests.toy_engine import write_toy_engine

HISTOGRAMS = {
    "time_to_first_token_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(write_toy_engine(tmp_path / "engine"), tmp_path) as started:
        yield started


def samples(server: Server, prefix: str = "vllm:") -> dict[str, list[Sample]]:
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return {
        family.name.removeprefix(prefix): family.samples
        for family in families
        if family.type == "histogram" and family.name.startswith(prefix)
    }


def value(found: dict[str, list[Sample]], name: str, suffix: str) -> float:
    (sample,) = [each for each in found[name] if each.name.endswith(f"{name}_{suffix}")]
    return sample.value


def test_histograms_count_the_requests_that_have_ended(server: Server) -> None:
    # None before the first request, and none of one that is refused.
    assert server.post("/v1/completions", prompt="a", max_tokens=0).status_code == 400
    assert not any(samples(server).values())
    for length in (3, 5):
        server.post("/v1/completions", prompt="a" * length, max_tokens=4, n=2, ignore_eos=True)
    server.events("/v1/chat/completions", messages=[{"role": "user", "content": "x"}], max_tokens=1)
    found = samples(server)
    assert set(found) == HISTOGRAMS
    for name in HISTOGRAMS - {"request_time_per_output_token_seconds"}:
        assert value(found, name, "count") == 3, name
    # A single token has none behind it.
    assert value(found, "request_time_per_output_token_seconds", "count") == 2
    assert value(found, "request_generation_tokens", "sum") == 2 * 8 + 1
    assert value(found, "request_params_n", "sum") == 5
    assert value(found, "request_params_max_tokens", "sum") == 9
    parts = [value(found, f"request_{name}_time_seconds", "sum") for name in ("queue", "inference")]
    assert sum(parts) == pytest.approx(value(found, "e2e_request_latency_seconds", "sum"))


def test_buckets_hold_all_that_is_no_larger(server: Server) -> None:
    server.post("/v1/completions", prompt="a" * 15, max_tokens=1)  # with BOS 16
    buckets = {
        each.labels["le"]: each.value
        for each in samples(server)["request_prompt_tokens"]
        if each.name.endswith("_bucket")
    }
    assert [buckets[edge] for edge in ("8.0", "16.0", "32.0", "+Inf")] == [0, 1, 1, 1]


def test_our_names_stand_beside_vllms(server: Server) -> None:
    server.post("/v1/completions", prompt="a", max_tokens=2)
    ours, theirs = samples(server, "trtcoder:"), samples(server)
    assert set(ours) == set(theirs) == HISTOGRAMS
    for name in HISTOGRAMS:
        assert value(ours, name, "sum") == value(theirs, name, "sum")


def test_the_cache_is_told_in_tokens(server: Server) -> None:
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    (info,) = [each for each in families if each.name == "vllm:cache_config_info"]
    labels = info.samples[0].labels
    size = int(labels["block_size"]) * int(labels["num_gpu_blocks"])
    assert int(labels["kv_cache_size_tokens"]) == size
    assert float(labels["kv_cache_max_concurrency"]) == pytest.approx(size / 64, rel=0.01)
