"""The graphs of plans compute the model with rounded weights, as NumPy does in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.export.targets.tensorrt_rtx.conftest import AMAX, CONFIGS, Graphs
from tests.export.targets.tensorrt_rtx.rounded import TOLERANCE, RoundedReference, float8
from trtcoder.export.parity.routing import select_experts
from trtcoder.model.deepseek_v2.config import DeepseekV2Config

IDS = np.random.default_rng(7).integers(0, 256, 50).tolist()
STATIC = "int4+fp8, static"
# The second half comes much later, where YaRN's slow frequencies count.
FAR = np.arange(50) + np.where(np.arange(50) < 21, 0, 8192)


@pytest.mark.parametrize("form", ["int4", "int4+fp8"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_layers_and_logits_are_those_of_the_rounded_weights(
    graphs: Callable[..., Graphs], kind: str, form: str
) -> None:
    found = graphs(kind, form)
    source, probe = found.source, found.probe()
    reference = RoundedReference(source.folder, form)
    wanted = [reference.run(IDS), reference.run(IDS, FAR.tolist()), reference.run(IDS)]
    # Whole, after a gap of positions, and token by token.
    states = [probe.start(IDS), probe.start(IDS, FAR), probe.start(IDS, chunk=1)]
    probe.embed(states)
    config, mixtures = DeepseekV2Config.of(source.config), 0
    # Rounding may turn a router's tie the other way; such a token goes its own way from there.
    same = [np.ones(len(IDS), bool) for _ in states]
    for layer in range(config.num_hidden_layers):
        for kept, trace, expected in zip(same, probe.run_layer(layer, states), wanted, strict=True):
            if trace.router_probabilities is not None:
                scores = expected.router_probabilities[mixtures]
                assert np.abs(trace.router_probabilities - scores)[kept].max() <= TOLERANCE
                chosen = np.sort(select_experts(trace.router_probabilities, config), -1)
                kept &= (chosen == expected.router_topk[mixtures]).all(-1)
            error = np.abs(trace.hidden - expected.hidden[layer])[kept].max()
            assert error <= TOLERANCE * np.abs(expected.hidden[layer]).max(), layer
        mixtures += config.is_moe_layer(layer)
    for kept, logits, expected in zip(same, probe.logits(states), wanted, strict=True):
        assert kept.mean() >= 0.9
        error = np.abs(logits - expected.logits)[kept].max()
        assert error <= TOLERANCE * np.abs(expected.logits).max()


@pytest.mark.parametrize("kind", ["lite", "236b"])
def test_a_layer_with_rounded_activations_is_that_of_numpy(
    graphs: Callable[..., Graphs], kind: str
) -> None:
    found = graphs(kind, STATIC)
    probe = found.probe()
    state = probe.start(IDS)
    probe.embed([state])
    made = probe.run_layer(0, [state])[0].hidden
    folder = found.source.folder
    wanted, others = (
        RoundedReference(folder, form).run(IDS).hidden[0] for form in (STATIC, "int4+fp8")
    )
    # What float16 moves over a tie, every 200th value, moves by a whole step of float8.
    assert np.linalg.norm(made - wanted) < 0.35 * np.linalg.norm(others - wanted)


def test_activations_are_rounded_as_float8_holds_them(graphs: Callable[..., Graphs]) -> None:
    import onnx
    import onnxruntime
    from onnx.utils import Extractor

    found = graphs("236b", STATIC)
    parts = found.manifest.compiled
    assert parts is not None
    model = onnx.load(str(found.folder / parts.plans[0].graph))
    rng = np.random.default_rng(5)
    for name in (
        "layers.0/input_norm",
        "layers.0/attention/q_norm",
        "layers.0/attention/heads",
        "layers.0/mlp/product",
        "layers.1/post_attention_norm",
        "layers.1/moe/shared_experts/product",
    ):
        part = Extractor(model).extract_model([name], [f"{name}/fp8_static"])
        session = onnxruntime.InferenceSession(part.SerializeToString())
        width = session.get_inputs()[0].shape[1]
        # From float8's smallest steps up to what is cut off.
        x = rng.standard_normal((64, width)) * np.exp(2 * rng.standard_normal((64, width)))
        assert np.abs(x).max() > AMAX
        x = x.astype(np.float16)
        rounded = session.run(None, {name: x})[0]
        wanted = float8(x.astype(np.float64), AMAX)
        # A code times the scale is rounded to float16: by half of its last bit.
        np.testing.assert_allclose(rounded, wanted, rtol=2**-11, atol=2**-25)


def test_a_wrong_place_in_the_cache_would_be_seen(graphs: Callable[[str], Graphs]) -> None:
    found = graphs("lite")
    probe = found.probe()
    right, wrong = probe.start(IDS), probe.start(IDS, FAR)
    probe.embed([right, wrong])
    traces = probe.run_layer(0, [right, wrong])
    difference = np.abs(traces[0].hidden - traces[1].hidden).max()
    assert difference > 10 * TOLERANCE * np.abs(traces[0].hidden).max()


def test_slots_that_run_together_do_not_see_each_other(graphs: Callable[[str], Graphs]) -> None:
    """A batch of slots gives what each gives by itself, and leaves their other rows alone."""
    import onnxruntime

    found = graphs("236b")
    stage = found.manifest.compiled
    assert stage is not None
    session = onnxruntime.InferenceSession(str(found.folder / stage.plans[0].graph))
    config = found.source.config
    hidden, rope = config.raw["hidden_size"], config.raw["qk_rope_head_dim"]
    width = config.raw["kv_lora_rank"] + rope
    layers, rows = config.num_hidden_layers, 24
    rng = np.random.default_rng(0)
    caches = {
        f"cache.{layer}": rng.standard_normal((3, 1, rows, width)).astype(np.float16)
        for layer in range(layers)
    }
    places = np.array([[4], [17], [0]])
    feeds = {
        "hidden": rng.standard_normal((3, hidden)).astype(np.float32),
        "places": places,
        "window": np.arange(20),
        "cos": rng.standard_normal((1, 3, rope // 2)).astype(np.float32),
        "sin": rng.standard_normal((1, 3, rope // 2)).astype(np.float32),
    }
    together, *written = session.run(None, feeds | caches)
    for slot in range(3):
        alone, *own = session.run(
            None,
            {
                "hidden": feeds["hidden"][slot : slot + 1],
                "places": places[slot : slot + 1],
                # Rows behind its own token do not matter.
                "window": np.arange(places[slot, 0] + 1),
                "cos": feeds["cos"][:, slot : slot + 1],
                "sin": feeds["sin"][:, slot : slot + 1],
                **{name: cache[slot : slot + 1] for name, cache in caches.items()},
            },
        )
        np.testing.assert_allclose(alone[0], together[slot], rtol=0, atol=TOLERANCE)
        for all_slots, one, before in zip(written, own, caches.values(), strict=True):
            np.testing.assert_allclose(one[0], all_slots[slot], rtol=0, atol=TOLERANCE)
            others = np.arange(rows) != places[slot, 0]
            np.testing.assert_array_equal(all_slots[slot, 0, others], before[slot, 0, others])
