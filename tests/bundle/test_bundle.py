from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.manifest import (
    FORMAT,
    Capabilities,
    ChatFormat,
    Manifest,
    ModelInfo,
    SourceInfo,
    Tokens,
)
from trtcoder.bundle.onnx import CacheInfo, GraphInfo, OnnxParts, Requires
from trtcoder.bundle.quantized import QuantizedParts
from trtcoder.bundle.writer import BundleWriter
from trtcoder.errors import EngineError

MANIFEST = Manifest(
    format=FORMAT,
    trtcoder="0.1.0",
    target="onnx",
    model=ModelInfo(
        "toy", {"hidden_size": 8, "rope_theta": 10000.0, "rope_scaling": None}, 64, 256
    ),
    source=SourceInfo("ab" * 32, "BF16"),
    recipe={"weights": "fp32", "cache": "fp32"},
    capabilities=Capabilities(completion=True, fim=True, chat=True),
    chat_format=ChatFormat("<b>", ("", "\n\n"), ("User: ", "\n\n"), ("A: ", "<e>"), "A:"),
    tokens=Tokens(bos=0, eos=(1,), fim_begin=2, fim_hole=3, fim_end=4, add_bos=True),
    files={},
    parity=None,
    onnx=OnnxParts(
        GraphInfo("model.onnx", 16, (CacheInfo("cache.0", "float32", 8),)),
        Requires("1.31", "CPUExecutionProvider"),
    ),
)


def write(target: Path, *, force: bool = False, graph: bytes = b"graph") -> Manifest:
    with BundleWriter(target, force=force) as writer:
        (writer.folder / "model.onnx").write_bytes(graph)
        (writer.folder / "tokenizer.json").write_text("{}")
        return writer.commit(MANIFEST)


def test_only_quantized_checkpoints_say_how_they_are_quantized() -> None:
    assert "quantized" not in json.loads(MANIFEST.to_json())
    parts = QuantizedParts("fp8-block", ("vllm",), {"lm_head": "kept"})
    other = dataclasses.replace(MANIFEST, target="tensorrt-llm", onnx=None, quantized=parts)
    assert Manifest.from_json(other.to_json()) == other
    with pytest.raises(EngineError, match="has no ONNX graph; vllm serve it, as its"):
        other.graph  # noqa: B018
    for wrong in (
        dataclasses.replace(other, quantized=None),
        dataclasses.replace(MANIFEST, quantized=parts),
        dataclasses.replace(other, quantized=dataclasses.replace(parts, readers=())),
    ):
        with pytest.raises(EngineError, match="quantized"):
            wrong.check()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_written_engine_loads_as_it_was_written(tmp_path: Path) -> None:
    manifest = write(tmp_path / "new" / "engine")
    bundle = Bundle.load(tmp_path / "new" / "engine")
    assert bundle.manifest == manifest
    assert set(manifest.files) == {"model.onnx", "tokenizer.json"}
    assert bundle.graph_path.read_bytes() == b"graph"
    assert leftovers(tmp_path / "new") == []


def test_a_manifest_of_before_templates_and_defaults_is_read() -> None:
    older = json.loads(MANIFEST.to_json())
    for key in ("chat_template", "chat_refusal", "sampling"):
        del older[key]
    assert Manifest.from_json(json.dumps(older)) == MANIFEST


def test_writing_twice_gives_identical_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    first, second = ((tmp_path / name / "manifest.json").read_bytes() for name in "ab")
    assert first == second


def test_files_that_do_not_match_are_all_named(tmp_path: Path) -> None:
    write(tmp_path / "engine")
    (tmp_path / "engine" / "model.onnx").write_bytes(b"grape")
    unread = Bundle.load(tmp_path / "engine", verify_hashes=False)
    assert unread.graph_path.read_bytes() == b"grape"
    with pytest.raises(EngineError, match=r"model\.onnx has sha256 .*expected"):
        Bundle.load(tmp_path / "engine")
    (tmp_path / "engine" / "model.onnx").write_bytes(b"gra")
    (tmp_path / "engine" / "tokenizer.json").unlink()
    with pytest.raises(
        EngineError, match=r"model\.onnx has 3 bytes, expected 5; tokenizer\.json is missing"
    ):
        Bundle.load(tmp_path / "engine", verify_hashes=False)


def test_a_folder_without_a_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="trtcoder build"):
        Bundle.load(tmp_path)
    with pytest.raises(EngineError, match="trtcoder build"):
        Bundle.load(tmp_path / "absent")


def changed(**changes: object) -> str:
    data = json.loads(MANIFEST.to_json())
    for key, value in changes.items():
        place = data
        *parents, last = key.split("__")
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "manifest.json: not JSON"),
        ("[]", "expected an object"),
        (changed(format=3), "format revision 3, this trtcoder reads 1 and 2"),
        (changed(onnx__graph__file=...), "onnx.graph: missing file"),
        (changed(colour="red"), "manifest.json: unknown colour"),
        (changed(onnx__graph__caches=[{"name": "c", "dtype": "float32", "width": "8"}]),
         r"onnx.graph.caches\[0\].width: expected an integer, found '8'"),
        (changed(tokens__add_bos=1), "tokens.add_bos: expected true or false, found 1"),
        (changed(tokens=None), "tokens: expected an object"),
        (changed(onnx__graph__caches=[]), "onnx.graph.caches is empty"),
        (changed(onnx__graph__caches=[{"name": "c", "dtype": "bf16", "width": 8}]), "type 'bf16'"),
        (changed(onnx__graph__cache_block=0), "onnx.graph.cache_block is 0"),
        (changed(model__vocab_size=0), "model.vocab_size is 0"),
        (changed(model__max_positions=-1), "model.max_positions is -1"),
        (changed(onnx=None), "target is 'onnx', and onnx is null"),
        (changed(target="tensorrt-rtx"), "target is 'tensorrt-rtx', and onnx is set"),
        (changed(tokens__fim_hole=64), "tokens.fim_hole is 64, outside the vocabulary of 64"),
        (changed(tokens__fim_hole=None), "capabilities.fim is set but a fim token is null"),
        (changed(tokens__bos=None), "tokens.add_bos is set but tokens.bos is null"),
        (changed(chat_format=None), "capabilities.chat is set but chat_format is null"),
        (changed(chat_format__user=["a"]), "chat_format.user is not a pair"),
        (changed(chat_template={"file": "x.jinja", "variables": {}}), "'x.jinja' is not in files"),
        (changed(sampling={"temperature": "hot"}), "sampling.temperature: expected a number"),
        (changed(files={"../x": {"sha256": "", "bytes": 1}}), "not a name inside the folder"),
        (changed(files={"x": {"sha256": "", "bytes": None}}), "files.x.bytes: expected an integer"),
    ],
)  # fmt: skip
def test_a_malformed_manifest_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Manifest.from_json(text)


def of_format_1(**changes: object) -> str:
    """Return the manifest as trtcoder wrote it when ``onnx`` was the only target."""
    data = json.loads(changed(**changes))
    sizes = {key: data["model"].pop(key) for key in ("vocab_size", "max_positions")}
    onnx = data.pop("onnx")
    graph = onnx["graph"] | sizes
    return json.dumps(data | {"format": 1, "graph": graph, "requires": onnx["requires"]})


def test_a_manifest_of_format_1_reads_as_one_of_today() -> None:
    assert Manifest.from_json(of_format_1()) == MANIFEST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (of_format_1(onnx__graph__file=...), "onnx.graph: missing file"),
        (of_format_1(onnx__requires=None), "onnx.requires: expected an object"),
        (of_format_1(onnx__graph__cache_block=0), "onnx.graph.cache_block is 0"),
        (of_format_1(model__vocab_size="64"), "model.vocab_size: expected an integer"),
        (json.dumps({"format": 1, "graph": 3}), "missing capabilities"),
        (json.dumps({"format": 1}), "missing capabilities"),
    ],
)
def test_a_malformed_manifest_of_format_1_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Manifest.from_json(text)


def test_an_engine_of_another_target_needs_no_onnx_and_says_so_where_it_is_wanted(
    tmp_path: Path,
) -> None:
    parts = QuantizedParts("pack-quantized", ("vllm", "sglang"), {})
    manifest = dataclasses.replace(
        MANIFEST, target="compressed-tensors", onnx=None, quantized=parts
    )
    with BundleWriter(tmp_path / "engine") as writer:
        (writer.folder / "model.safetensors").write_bytes(b"weights")
        writer.commit(manifest)
    bundle = Bundle.load(tmp_path / "engine")
    assert bundle.manifest.model == MANIFEST.model
    with pytest.raises(EngineError, match="an engine for compressed-tensors has no ONNX graph"):
        bundle.graph_path  # noqa: B018


def test_a_manifest_that_contradicts_itself_is_not_written(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="fim token is null"),
        BundleWriter(tmp_path / "engine") as writer,
    ):
        writer.commit(
            dataclasses.replace(
                MANIFEST, tokens=dataclasses.replace(MANIFEST.tokens, fim_hole=None)
            )
        )
    assert list(tmp_path.iterdir()) == []
