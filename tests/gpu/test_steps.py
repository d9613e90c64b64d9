"""The steps' own code, as far as a CPU runs it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engines import build_engine, probe, write_checkpoint
from tests.gpu import __main__ as program
from tests.gpu import attention, demo, graphs, lite, moe, prepare, serving, wheels
from tests.gpu.place import Entry, NotPreparedError, Place, note
from tests.reference.paged import CacheForm, PagedBatch, attend
from trtcoder import open_engine
from trtcoder.bundle.folder import Bundle
from trtcoder.export.recipe import preset
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.testing.random_checkpoint import tiny_config, tiny_grouped_config

SMALL: dict[str, Any] = {"moe_intermediate_size": 64, "hidden_size": 128}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place("cpu", tmp_path / "prepared", tmp_path / "work")
    found.prepared.mkdir()
    found.work.mkdir()
    return found


@pytest.mark.parametrize("raw", [tiny_config(**SMALL), tiny_grouped_config(**SMALL)])
def test_experts_are_compared_with_float64(place: Place, raw: dict[str, Any]) -> None:
    config = DeepseekV2Config.from_dict(raw)
    for activations in ("fp32", "fp16"):
        prepare.experts(place.prepared / "experts", config, raw, activations, 4, 32)
    found = moe.run(place)
    assert found.problems == ()
    for errors in (each["errors"] for each in found.values.values()):
        assert set(errors) == {"1", "2", "8", "32", "128", "512"}
        assert all(0 < error < 3e-3 for error in errors.values())
    # The CPU's kernel reads them, and the comparison sees it.
    assert not found.values["fp32-4-32"]["router_weights_change_nothing"]


WIDTHS: dict[str, Any] = {"heads": 4, "latent": 64, "width": 96, "scale": 0.1, "block": 16}
CASES = {"prompts": ([0, 0], [40, 3]), "decoding": ([15, 100], [1, 1])}


def kernel(config: Mapping[str, Any], form: CacheForm, late: int = 0) -> attention.Run:
    """Return the node in NumPy, whose tokens see ``late`` rows too few."""

    def run(
        feeds: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, tuple[tuple[int, ...], Any]],
        in_place: Mapping[str, str],
    ) -> dict[str, NDArray[Any]]:
        cache = feeds["cache"][:, :, 0].copy()
        names = ("query_starts", "past_lengths", "block_table", "slots")
        batch = PagedBatch(*(feeds[name] for name in names))
        batch = dataclasses.replace(batch, past_lengths=batch.past_lengths - late)
        out = attend(
            feeds["query"], feeds["entry"], cache, batch, form,
            heads=config["heads"], value=config["latent"], scale=config["scale"],
        )  # fmt: skip
        shape, dtype = outputs["out"]
        return {"out": out.astype(dtype).reshape(shape), "cache.out": cache[:, :, None]}

    return run


@pytest.mark.parametrize("name", ["fp16-fp16", "bf16-bf16", "bf16-int8", "bf16-fp8"])
def test_attention_is_compared_in_every_type_of_cache(name: str) -> None:
    _, cache = name.split("-")
    config = dict(WIDTHS)
    if cache in ("int8", "fp8"):
        config["scales"] = graphs.cache_scales(cache, config["width"])
    form = CacheForm(cache, config.get("scales"))
    found = attention.compare(kernel(config, form), name, config, CASES)
    assert attention.problems_of(name, found) == []
    decoding = {"decoding": CASES["decoding"]}
    wrong = attention.compare(kernel(config, form, late=1), name, config, decoding)
    (problem,) = attention.problems_of(name, wrong)
    assert problem.startswith(f"{name}, decoding:")
    assert attention.problems_of(name, {"far": float("nan")})


def test_the_graph_of_attention_is_what_its_step_feeds(tmp_path: Path) -> None:
    import onnx

    config = DeepseekV2Config.from_dict(tiny_config())
    prepare.attention(tmp_path, config, "bf16", "int8")
    model = onnx.load(str(tmp_path / "bf16-int8" / "attention.onnx"))
    fed: list[set[str]] = []

    def run(feeds: Mapping[str, Any], outputs: Mapping[str, Any], in_place: Any) -> Any:
        fed.extend([set(feeds), set(outputs)])
        raise NotPreparedError

    told = json.loads((tmp_path / "bf16-int8" / "config.json").read_text())
    with pytest.raises(NotPreparedError):
        attention.compare(run, "bf16-int8", told, CASES)
    assert fed[0] == {value.name for value in model.graph.input}
    assert fed[1] == {value.name for value in model.graph.output}


def test_an_engine_is_compared_by_logits_and_text(place: Place) -> None:
    source = write_checkpoint(place.work / "checkpoint", tiny_config())
    engine = build_engine(source, place.prepared / "demo", "int8")
    ids = np.random.default_rng(3).integers(0, 256, 130).tolist()
    logits = probe(engine, source).run(ids).logits
    np.save(place.prepared / "demo_logits.npy", logits)
    with open_engine(engine.folder) as llm:
        (given,) = llm.generate(["ab"], max_tokens=4, temperature=0.0, progress=False)
    told = {"ids": ids, "answers": [("ab", given.outputs[0].text)], "max_tokens": 4}
    (place.prepared / "demo_text.json").write_text(json.dumps(told))
    found = demo.run(place)
    assert found.problems == ()
    assert found.values["kl, chunks"] < 1e-4
    assert found.values["characters the same"] == found.values["characters"]
    np.save(place.prepared / "demo_logits.npy", logits[:, ::-1])
    assert demo.run(place).problems


def test_a_random_engine_is_written_measured_and_served(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny_config(vocab_size=4096)
    prepare.random_engine(place.prepared / "lite", raw, preset("int4", accuracy_level=0))
    monkeypatch.setattr(lite, "PREFILLS", (20,))
    monkeypatch.setattr(lite, "DECODES", ((1, 16), (2, 20)))
    monkeypatch.setattr(lite, "STEPS", 3)
    found = lite.run(place)
    assert found.problems == ()
    names = ("prefill 20 tok/s", "decode 1 x 16 tok/s", "decode 2 x 20 tok/s")
    assert all(found.values[f"{who}, {name}"] > 0 for who in ("ours", "transformers")
               for name in names)  # fmt: skip
    engine = place.work / "lite"
    assert Bundle.load(engine).manifest.onnx is not None
    values = serving.under_load(engine, clients=2, requests=4, tokens=5)
    assert values["failed"] == 0
    assert values["tokens a second"] > 0


def test_wheels_come_in_pieces_and_a_damaged_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "PIECE", 100)
    data = np.random.default_rng(1).bytes(250)
    wheel, small = tmp_path / "large-1-py3-none-any.whl", tmp_path / "small-1-py3-none-any.whl"
    wheel.write_bytes(data)
    small.write_bytes(b"small")
    assert len(wheels.cut(wheel)) == 3
    assert wheels.cut(small) == [small]
    assert not wheel.exists()
    whole = wheels.join(tmp_path, tmp_path / "work")
    assert {path.name: path.read_bytes() for path in whole} == {
        wheel.name: data,
        small.name: b"small",
    }
    (tmp_path / f"{wheel.name}.part001").unlink()
    with pytest.raises(ValueError, match="missing or damaged"):
        wheels.join(tmp_path, tmp_path / "work")


def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if program.no_gpu() is None:
        pytest.skip("there is a GPU")
    assert program.main([]) == program.NO_GPU
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "no GPU here, nothing was run" in lines[0]
    assert program.main(["nothing"]) == 2


def test_a_step_that_fails_keeps_what_was_found_before(tmp_path: Path) -> None:
    # It is not prepared here, which is a step's own answer.
    failed = program.run_apart("no_such_step", {"PYTHONPATH": "src"})
    assert failed.problem is not None
    journal = tmp_path / "folder" / "journal.jsonl"
    for entry in (Entry("moe", 1.0, "line", {"a": 1}, None), failed):
        note(journal, entry)
    kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [each["step"] for each in kept] == ["moe", "no_such_step"]
    assert "no_such_step" in kept[1]["problem"]


def test_what_is_not_prepared_is_named(place: Place) -> None:
    with pytest.raises(NotPreparedError, match="run `make gpu-prepare`"):
        moe.run(place)
