from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.commands.plan import CACHES, DEVICES, LINKS
from trtcoder.errors import BuildError
from trtcoder.export.recipe import preset
from trtcoder.export.scale import layers as layers_module
from trtcoder.export.scale import machines
from trtcoder.export.scale.forecast import forecast
from trtcoder.export.scale.layers import Layers, read_layers
from trtcoder.export.scale.machines import Device, Link
from trtcoder.export.scale.stages import Setting, Work, fewest_stages, plan_stages
from trtcoder.testing.random_checkpoint import tiny_grouped_config

LAYERS = 7
DEVICE = Device(1e9, 1e11, 1e13, "a test")
LINK = Link(1e9, 1e-6, "a test")
WORK = Work(streams=4, context=32, prompt=96, chunk=16)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Layers:
    folder = tmp_path_factory.mktemp("config")
    config = tiny_grouped_config(num_hidden_layers=LAYERS)
    (folder / "config.json").write_text(json.dumps(config))
    return read_layers(Checkpoint.describe(folder), preset("int4"), "bf16")


def room_for(nbytes: float) -> Setting:
    return Setting(Device(nbytes, 1e11, 1e13, "a test"), LINK, 1.0, 1.0)


@given(
    count=st.integers(1, LAYERS),
    streams=st.integers(1, 9),
    context=st.integers(1, 300),
    memory=st.integers(1 << 16, 1 << 22),
)
def test_every_layer_is_in_one_stage_and_memory_adds_up(
    layers: Layers, count: int, streams: int, context: int, memory: int
) -> None:
    work = Work(streams, context, 96, 16)
    plan = plan_stages(layers, count, room_for(memory), work)
    assert [n for stage in plan.stages for n in stage.layers] == list(range(LAYERS))
    assert len(plan.stages) == count
    assert sum(stage.weights for stage in plan.stages) == layers.stored
    width = layers.layers[0].cache_bytes
    assert sum(stage.cache for stage in plan.stages) == LAYERS * width * streams * context
    assert plan.fits is all(stage.nbytes <= memory for stage in plan.stages)
    assert (plan.decode is not None) is plan.fits
    fewest = fewest_stages(layers, room_for(memory), work)
    if plan.fits:
        assert fewest is not None
        assert count >= fewest
    elif count == fewest:
        pytest.fail("a cut that fits was not found")


def test_one_stage_decodes_at_the_rate_of_its_reads(layers: Layers) -> None:
    setting = Setting(Device(1e9, 1e6, 1e18, "reads only"), LINK, 0.5, 1.0)
    plan = plan_stages(layers, 1, setting, WORK)
    parts = [layers.embedding, *layers.layers, layers.head]
    nbytes = sum(p.read_bytes(4) + p.cache_bytes * 4 * 32 for p in parts)
    assert plan.groups == 1
    assert plan.decode_rate == pytest.approx(4 * 0.5e6 / nbytes)


def test_one_stage_reads_a_prompt_at_the_rate_of_its_products(layers: Layers) -> None:
    setting = Setting(Device(1e9, 1e18, 1e6, "computes only"), LINK, 1.0, 1.0)
    plan = plan_stages(layers, 1, setting, WORK)
    body = [layers.embedding, *layers.layers]
    operations = sum(p.operations(16, start + 8) for p in body for start in range(0, 96, 16))
    operations += 6 * layers.head.operations(1, 0)
    assert plan.prefill_rate == pytest.approx(96 * 1e6 / operations)
    assert plan.prefill is not None
    assert plan.prefill.bubble == pytest.approx(0)


def test_more_stages_decode_more_where_the_link_is_fast(layers: Layers) -> None:
    setting = Setting(DEVICE, Link(1e15, 0.0, "no time at all"), 1.0, 1.0)
    one, three = (plan_stages(layers, count, setting, WORK) for count in (1, 3))
    assert one.decode_rate is not None
    assert three.decode_rate is not None
    assert one.decode_rate < three.decode_rate <= 3 * one.decode_rate


def test_a_slow_link_leaves_bubbles(layers: Layers) -> None:
    fast = plan_stages(layers, 3, Setting(DEVICE, LINK, 1.0, 1.0), WORK)
    slow = plan_stages(layers, 3, Setting(DEVICE, Link(1e9, 1.0, "slow"), 1.0, 1.0), WORK)
    assert fast.decode is not None
    assert slow.decode is not None
    assert slow.decode.bubble > 0.99 > fast.decode.bubble


def test_more_stages_than_layers_are_refused(layers: Layers) -> None:
    with pytest.raises(BuildError, match="8 stages: a model of 7 layers has 1 to 7 of them"):
        plan_stages(layers, 8, room_for(1e9), WORK)


def test_what_does_not_fit_has_no_speed(layers: Layers) -> None:
    found = forecast(layers, [1, 2], room_for(1000), WORK)
    assert found.fewest is None
    assert "does not fit" in found.render()
    assert "none, a layer alone is too large" in found.render()
    described = found.to_dict()["plans"][0]
    assert described["fits"] is False
    assert described["decode"] is None


def test_the_command_offers_what_there_is() -> None:
    assert list(machines.DEVICES) == list(DEVICES)
    assert list(machines.LINKS) == list(LINKS)
    assert list(layers_module.CACHE_BYTES) == list(CACHES)


def test_numbers_of_ones_own_are_told_as_such(tmp_path: Path) -> None:
    device, link = machines.choose("gb10", "10gbe", memory=5.0, latency=0.5)
    assert (device.memory, link.latency) == (5.0, 0.5)
    assert device.source.endswith("; memory as given")
    assert link.source.endswith("; latency as given")
    assert machines.choose("gb10", "10gbe") == (machines.DEVICES["gb10"], machines.LINKS["10gbe"])
