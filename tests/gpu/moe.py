"""Step 1: routing and experts of one layer against float64."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.gpu.one_node import OneNode, error_of, fill
from tests.gpu.place import Found, Place
from tests.reference.experts import PackedExperts, chosen_experts, mixed

TOKENS = (1, 2, 8, 32, 128, 512)
# Of the largest value: activations round to 11 or 8 bits between two products and a sum of six.
TOLERANCES = {"fp32": 1e-5, "fp16": 3e-3, "bf16": 2.5e-2}


def run(place: Place) -> Found:
    """Run every prepared form of experts with 1 to 512 tokens."""
    values: dict[str, Any] = {}
    problems = []
    for folder in sorted(place.need("experts").iterdir()):
        found = compare(place, folder.name)
        values[folder.name] = found
        tolerance = TOLERANCES[folder.name.split("-")[0]]
        problems += [
            f"{folder.name}, {tokens} tokens: {error:.1e} of the largest value"
            for tokens, error in found["errors"].items()
            if not error < tolerance  # which NaN is not
        ]
        if not found["router_weights_change_nothing"] and place.device == "cuda":
            problems.append(f"{folder.name}: router_weights are read")
    worst = {name: f"{max(each['errors'].values()):.1e}" for name, each in values.items()}
    told = ", ".join(f"{name} {error}" for name, error in worst.items())
    return Found(f"largest error against float64: {told}", values, tuple(problems))


def compare(place: Place, name: str) -> dict[str, Any]:
    """Return one form's errors by number of tokens, and whether mixing weights are ignored."""
    import ml_dtypes

    folder = place.need(f"experts/{name}")
    config = json.loads((folder / "config.json").read_text())
    activations, bits, block = name.split("-")
    dtype: Any = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}[activations]
    rng = np.random.default_rng(11)
    hidden, count = config["hidden_size"], config["n_routed_experts"]
    packed = PackedExperts.random(
        rng, count, hidden, config["moe_intermediate_size"],
        bits=int(bits), block=int(block), dtype=dtype,
    )  # fmt: skip
    names = ("gate_up", "gate_up_scales", "down", "down_scales")
    fill(folder, {each: getattr(packed, each) for each in names})
    most = max(TOKENS)
    x = rng.standard_normal((most, hidden)).astype(dtype)
    logits = (4 * rng.standard_normal((most, count))).astype(np.float32)
    grouped = config["topk_method"] == "group_limited_greedy"
    routed = chosen_experts(
        logits,
        config["num_experts_per_tok"],
        groups=config["n_group"] if grouped else 1,
        top_groups=config["topk_group"] if grouped else 1,
        normalize=config["norm_topk_prob"],
        scale=config["routed_scaling_factor"],
    )
    wanted = mixed(x, packed, routed)
    node = OneNode(folder / "experts.onnx", place.device)
    errors, last = {}, x
    for tokens in TOKENS:
        feeds = {"x": x[:tokens], "logits": logits[:tokens]}
        last = node.run(feeds, {"out": ((tokens, hidden), dtype)})["out"]
        errors[str(tokens)] = error_of(last, wanted[:tokens])
    told = OneNode(folder / "told_weights.onnx", place.device)
    feeds["router_weights"] = rng.random(logits.shape).astype(dtype)
    same = told.run(feeds, {"out": ((most, hidden), dtype)})["out"]
    return {"errors": errors, "router_weights_change_nothing": bool(np.array_equal(last, same))}
