"""The runner of slots over the plans' graphs: all of it but the driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engines import write_checkpoint
from tests.export.targets.tensorrt_rtx.conftest import CONFIGS, plan_of
from tests.export.targets.tensorrt_rtx.rounded import TOLERANCE, Rounded
from tests.reference import NumpyReference
from tests.runtime.engine.slots.graph_plans import GraphPlans
from tests.runtime.engine.test_core import Asked, run
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.writer import BundleWriter
from trtcoder.errors import BuildError, DependencyError, EngineError
from trtcoder.export.weights.writer import write_weights
from trtcoder.prompting.source import read_prompting
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.core import EngineCore
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.engine.slots.gpu import GpuPlans
from trtcoder.runtime.engine.slots.runner import SlotRunner
from trtcoder.tensorrt_rtx import libraries
from trtcoder.tensorrt_rtx.gpus import check_gpus

SLOTS, CONTEXT, CHUNK = 3, 96, 16
RNG = np.random.default_rng(3)
IDS = RNG.integers(0, 256, (4, 60)).tolist()


@pytest.fixture(scope="module", params=["lite", "236b"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An engine whose plans are empty: its graphs are what runs."""
    folder = tmp_path_factory.mktemp("slots")
    source = write_checkpoint(folder / "source", CONFIGS[request.param])
    plan = plan_of(source, slots=SLOTS, context=CONTEXT, chunk=CHUNK)
    with BundleWriter(folder / "engine") as writer:
        with plan.open_sink(writer.folder) as sink:
            write_weights(plan.weights, sink)
        plan.write_graphs(writer.folder)
        for stage in plan.stages:
            (writer.folder / stage.info.file).touch()
        writer.commit(plan.manifest(read_prompting(source, True), source.digest()))
    return Bundle.load(folder / "engine")


@pytest.fixture
def runner(bundle: Bundle) -> SlotRunner:
    config, parts = bundle.manifest.model.config, bundle.manifest.compiled
    assert parts is not None
    width = int(str(config["kv_lora_rank"])) + int(str(config["qk_rope_head_dim"]))
    layers = int(str(config["num_hidden_layers"]))
    return SlotRunner(bundle, GraphPlans(bundle.folder, parts, layers, width))


@pytest.fixture
def reference(bundle: Bundle) -> NumpyReference:
    source = bundle.folder.parent / "source"
    return NumpyReference(source, Rounded(source))


def batch(runner: SlotRunner, *spans: tuple[int, int, int, int]) -> PackedBatch:
    """Return tokens of sequences, ``(sequence, slot, start, stop)`` each, all of them sampled."""
    return PackedBatch.pack(
        [
            Span(IDS[sequence][start:stop], start, np.array([slot], np.int64), stop - start)
            for sequence, slot, start, stop in spans
        ],
        runner.block_size,
    )


def assert_near(found: np.ndarray, wanted: np.ndarray) -> None:
    # Where a router's tie was turned, a few rows go their own way.
    error = np.abs(found - wanted).max(-1)
    assert (error <= 2 * TOLERANCE * np.abs(wanted).max()).mean() >= 0.9


def test_prompts_and_decodes_together_give_the_references_logits(
    runner: SlotRunner, reference: NumpyReference
) -> None:
    wanted = [reference.run(ids).logits for ids in IDS[:3]]
    # A prompt of several chunks, beside a short one.
    batches = [[(0, 2, 0, 40), (1, 0, 0, 5)]]
    for step in range(4):
        batches.append([(0, 2, 40 + step, 41 + step), (1, 0, 5 + step, 6 + step)])
    batches[3].append((2, 1, 0, 20))
    found = [runner.forward(batch(runner, *spans)).copy() for spans in batches]
    rows = [wanted[sequence][start:stop] for spans in batches for sequence, _, start, stop in spans]
    assert_near(np.concatenate(found), np.concatenate(rows))


def test_rows_that_are_copied_go_on_as_those_that_they_came_from(runner: SlotRunner) -> None:
    runner.forward(batch(runner, (0, 0, 0, 30)))
    runner.copy_rows(0, 2, 30)
    kept = runner.read_block(0)
    both = runner.forward(batch(runner, (0, 0, 30, 31), (0, 2, 30, 31)))
    np.testing.assert_allclose(both[0], both[1], rtol=0, atol=TOLERANCE)
    assert runner.write_block(1, kept)
    assert not runner.write_block(1, kept[:-2])
    again = runner.forward(batch(runner, (0, 1, 30, 31)))
    np.testing.assert_allclose(again[0], both[0], rtol=0, atol=TOLERANCE)
    runner.clear_rows(np.arange(CONTEXT, CONTEXT + 30))
    cleared = runner.forward(batch(runner, (0, 1, 30, 31)))
    assert np.abs(cleared[0] - both[0]).max() > TOLERANCE


def test_the_loop_above_it_is_the_same(bundle: Bundle, runner: SlotRunner) -> None:
    """More requests than slots, of different lengths; every answer is the model's own."""
    tokenizer = TextTokenizer.load(bundle.tokenizer_path, bundle.manifest.tokens.ids())
    core = EngineCore(runner, tokenizer, EngineSettings(chunk=32))
    assert core.context == CONTEXT
    lengths = [50, 3, 21, 1, 60]
    asked = [
        Asked(core, IDS[index % 4][:length], max_tokens=6, temperature=0.0, ignore_eos=True)
        for index, length in enumerate(lengths)
    ]
    run(core)
    for index, (request, length) in enumerate(zip(asked, lengths, strict=True)):
        assert len(request.tokens) == 6
        sequence = [*IDS[index % 4][:length], *request.tokens]
        alone = runner.forward(
            PackedBatch.pack(
                [Span(sequence, 0, np.zeros(1, np.int64), len(sequence))], runner.block_size
            )
        )
        rows = alone[length - 1 : -1]
        gaps = rows.max(-1) - rows[np.arange(6), request.tokens]
        # Where another token was taken, the two were as good as equal.
        assert (gaps <= 2 * TOLERANCE * np.abs(rows).max()).all(), index


def test_without_a_gpu_it_says_what_it_needs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        import ctypes

        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("there is a driver here")
    monkeypatch.setattr("trtcoder.runtime.engine.slots.gpu.require_packages", lambda: None)
    with pytest.raises(DependencyError, match=r"needs an NVIDIA GPU and its driver.*CPU"):
        GpuPlans(bundle)
    monkeypatch.undo()
    names = {name: f"no_module_of_{module}" for name, module in libraries._MODULES.items()}
    monkeypatch.setattr(libraries, "_MODULES", names)
    with pytest.raises(DependencyError, match=r"trtcoder\[rtx\]"):
        GpuPlans(bundle)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["int4", "int4+fp8"])
def test_plans_on_a_gpu_compute_what_their_graphs_do(tmp_path: Path, form: str) -> None:
    """Compile for this GPU, load, and compare with the graphs, decoding and in chunks."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    from trtcoder.runtime.engine.cuda_device import device_capability, require_gpu

    try:
        require_gpu()
    except (DependencyError, EngineError) as error:
        pytest.skip(str(error))
    source, capability = write_checkpoint(tmp_path / "source", CONFIGS["lite"]), device_capability()
    try:
        check_gpus([capability], form)
    except BuildError as error:
        pytest.skip(str(error))
    plan = plan_of(
        source, form, slots=SLOTS, context=CONTEXT, chunk=CHUNK, capabilities=(capability,)
    )
    with BundleWriter(tmp_path / "engine") as writer:
        with plan.open_sink(writer.folder) as sink:
            write_weights(plan.weights, sink)
        plan.write_rest(writer.folder)
        writer.commit(plan.manifest(read_prompting(source, True), source.digest()))
    built = Bundle.load(tmp_path / "engine")
    config, parts = source.config.raw, built.manifest.compiled
    assert parts is not None
    width = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    on_gpu = SlotRunner(built, GpuPlans(built))
    on_cpu = SlotRunner(built, GraphPlans(built.folder, parts, config["num_hidden_layers"], width))
    for spans in steps():
        found, wanted = (
            runner.forward(batch(runner, *spans)).copy() for runner in (on_gpu, on_cpu)
        )
        assert_near(found, wanted)


def steps() -> Iterator[list[tuple[int, int, int, int]]]:
    """Yield batches: prompts, then decodes beside a new prompt."""
    yield [(0, 2, 0, 40), (1, 0, 0, 5)]
    yield [(0, 2, 40, 41), (1, 0, 5, 6)]
    yield [(0, 2, 41, 42), (1, 0, 6, 7), (2, 1, 0, 20)]
