"""The metrics that other people's routers read, under the names and labels by which they do."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.runtime.server.serving import Server

# llm-d's endpoint picker and the Gateway API's (model server protocol 003).
PICKERS = (
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
)
# vLLM's production stack, engine_stats.py; the others are vLLM's router's.
PRODUCTION_STACK = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:gpu_cache_usage_perc",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_queries_total",
)
# What the chart's autoscalers ask Prometheus for.
CHART = ("trtcoder:requests_waiting",)


def samples(server: Server) -> dict[str, dict[str, str]]:
    """Return the labels of each sample by its name."""
    text = server.client.get("/metrics").text
    return {
        sample.name: sample.labels
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    "names", [PICKERS, PRODUCTION_STACK, CHART], ids=["llm-d", "production stack", "chart"]
)
def test_a_router_finds_its_names_and_the_model(roomy: Server, names: tuple[str, ...]) -> None:
    found = samples(roomy)
    (served,) = roomy.client.get("/v1/models").json()["data"]
    for name in names:
        assert found[name]["model_name"] == served["id"], name


def test_the_size_of_a_block_and_their_number_are_labels(roomy: Server) -> None:
    labels = samples(roomy)["vllm:cache_config_info"]
    assert int(labels["block_size"]) > 0
    assert int(labels["num_gpu_blocks"]) > 0


def test_old_and_new_names_tell_the_same(roomy: Server) -> None:
    roomy.post("/v1/completions", prompt="ab", max_tokens=2)
    text = roomy.client.get("/metrics").text
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["vllm:gpu_cache_usage_perc"] == values["vllm:kv_cache_usage_perc"]
    for what in ("hits", "queries"):
        old, new = f"vllm:gpu_prefix_cache_{what}_total", f"vllm:prefix_cache_{what}_total"
        assert values[old] == values[new]
    assert values["vllm:prefix_cache_queries_total"] > 0
