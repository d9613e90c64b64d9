from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from trtcoder.checkpoint.reader import Checkpoint, widen
from trtcoder.checkpoint.shard import read_shard
from trtcoder.checkpoint.weight_files import INDEX, SINGLE
from trtcoder.errors import BuildError, CheckpointError, ConfigError
from trtcoder.testing.random_checkpoint import (
    tiny_config,
    tiny_grouped_config,
    write_random_checkpoint,
)

NORM = "model.norm.weight"
GATE = "model.layers.1.mlp.experts.3.gate_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / "checkpoint", tiny_config(), shard_bytes=400_000)


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    return str(caught.value)


def test_values_equal_those_of_an_independent_reader(folder: Path) -> None:
    import torch

    checkpoint = Checkpoint.open(folder)
    assert len({stored.file.path for stored in checkpoint.tensors.values()}) > 2
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(str(shard), "pt") as reader:
            for name in reader.keys():  # noqa: SIM118 - not a mapping
                wanted = reader.get_tensor(name)
                assert checkpoint.shape(name) == tuple(wanted.shape)
                assert checkpoint.dtype(name) == "BF16"
                found = torch.from_numpy(checkpoint.read(name))
                assert torch.equal(found, wanted.float())


@pytest.mark.parametrize("rows", [slice(3, 9), np.array([5, 0, 63, 5])])
def test_some_rows_can_be_read_in_any_order(folder: Path, rows: Any) -> None:
    checkpoint = Checkpoint.open(folder)
    found = checkpoint.read(GATE, rows)
    np.testing.assert_array_equal(found, checkpoint.read(GATE)[rows])
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_single_files_of_other_types_are_read(folder: Path, dtype: Any) -> None:
    checkpoint = Checkpoint.open(folder)
    tensors = {name: checkpoint.read(name).astype(dtype) for name in checkpoint.names()}
    for path in folder.glob("model*"):
        path.unlink()
    safetensors.numpy.save_file(tensors, folder / SINGLE)
    again = Checkpoint.open(folder)
    assert again.dtype(GATE) == {np.float16: "F16", np.float32: "F32"}[dtype]
    np.testing.assert_array_equal(again.read(GATE), tensors[GATE].astype(np.float32))


def test_opening_takes_no_memory_of_the_weights_size(tmp_path: Path) -> None:
    config = tiny_config(vocab_size=150_000, hidden_size=256)
    folder = write_random_checkpoint(tmp_path / "large", config)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert size > 150e6
    # Resident pages of the file itself are the system's to drop; anonymous memory is ours.
    script = (
        "import sys; from trtcoder.checkpoint.reader import Checkpoint\n"
        "def anonymous():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon'))\n"
        "before = anonymous(); c = Checkpoint.open(sys.argv[1])\n"
        "total = sum(int(c.stored(n, slice(0, 1)).sum()) for n in c.names())\n"
        "print(anonymous() - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder)], check=True, capture_output=True, text=True
    )
    assert int(result.stdout) * 1024 < 0.1 * size


def test_the_digest_does_not_depend_on_shards(folder: Path, tmp_path: Path) -> None:
    whole = write_random_checkpoint(tmp_path / "whole", tiny_config())
    other = write_random_checkpoint(tmp_path / "other", tiny_config(), seed=1)
    digests = [Checkpoint.open(each).digest() for each in (folder, whole, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_truncated_shard_is_named(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    data = shard.read_bytes()
    for length in (len(data) - 1, 100, 4, 0):
        shard.write_bytes(data[:length])
        message = refusal(folder)
        assert shard.name in message
        assert "download it again" in message


def test_bytes_after_the_end_are_noticed(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes() + b"x")
    assert "does not describe" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    assert f"{shard.name}: is missing" in refusal(folder)


def test_a_missing_index_entry_is_named(folder: Path) -> None:
    edit_index(folder, lambda weights: weights.pop(GATE))
    assert GATE in refusal(folder)


def test_an_entry_that_points_to_the_wrong_shard_is_named(folder: Path) -> None:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    edit_index(folder, lambda weights: weights.update({NORM: files[0]}))
    assert NORM in refusal(folder)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_names_that_leave_the_folder_are_refused(folder: Path, file: str) -> None:
    edit_index(folder, lambda weights: weights.update({NORM: file}))
    assert "leaves the folder" in refusal(folder)


def test_pickles_are_refused(folder: Path) -> None:
    edit_index(folder, lambda weights: weights.update({NORM: "pytorch_model.bin"}))
    assert "pytorch_model.bin: is a pickle" in refusal(folder)
    for path in folder.glob("model*"):
        path.unlink()
    assert "has neither" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "is a pickle" in refusal(folder)


def test_types_that_are_not_read_are_named(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    tensors: dict[str, Any] = {name: checkpoint.read(name) for name in checkpoint.names()}
    tensors[GATE] = tensors[GATE].astype(np.int8)
    for path in folder.glob("model*"):
        path.unlink()
    safetensors.numpy.save_file(tensors, folder / SINGLE)
    message = refusal(folder)
    assert GATE in message
    assert "I8" in message


def test_one_error_lists_all_that_does_not_fit(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    tensors = {name: checkpoint.read(name) for name in checkpoint.names()}
    del tensors[NORM]
    tensors["model.layers.9.extra"] = np.zeros(2, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(16, np.float32)
    tensors[GATE] = tensors[GATE][:-1]
    for path in folder.glob("model*"):
        path.unlink()
    safetensors.numpy.save_file(tensors, folder / SINGLE)
    message = refusal(folder)
    assert f"1 missing: {NORM}" in message
    assert "1 unexpected: model.layers.9.extra" in message
    assert f"{GATE} (expected [64, 128], found [63, 128] in {SINGLE})" in message


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_malformed_index_is_refused(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    assert INDEX in refusal(folder)


def test_headers_that_lie_are_refused(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    for change in (
        {"shape": [3, 5]},
        {"data_offsets": [4, 2]},
        {"data_offsets": [-2, 2]},
        {"shape": None},
    ):
        text = json.dumps({**header, name: {**header[name], **change}}).encode()
        shard.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
        assert name in refusal(folder)


def test_random_checkpoints_are_what_transformers_loads(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    for name, config in (("a", tiny_config()), ("b", tiny_grouped_config())):
        folder = write_random_checkpoint(tmp_path / name, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        model, report = loaded
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        checkpoint = Checkpoint.open(folder)
        assert np.array_equal(model.lm_head.weight.detach(), checkpoint.read("lm_head.weight"))


def test_random_values_do_not_depend_on_the_order(tmp_path: Path) -> None:
    small = write_random_checkpoint(tmp_path / "a", tiny_config(), shard_bytes=1)
    deeper = write_random_checkpoint(tmp_path / "b", tiny_config(num_hidden_layers=4))
    a, b = Checkpoint.open(small), Checkpoint.open(deeper)
    assert all(np.array_equal(a.stored(name), b.stored(name)) for name in a.names())
    values = a.read(GATE) * np.sqrt(128)
    assert abs(values.std() - 1) < 0.05
    assert abs(values.mean()) < 0.05


def test_random_checkpoints_refuse_bad_places_and_shapes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="exists"):
        write_random_checkpoint(folder, tiny_config())
    with pytest.raises(ConfigError, match="hidden_size"):
        write_random_checkpoint(tmp_path / "x", tiny_config(hidden_size=-1))
    with pytest.raises(BuildError, match="no room"):
        write_random_checkpoint(tmp_path / "y", tiny_config(bos_token_id=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def write_shard(path: Path, entry: dict[str, Any], data: bytes) -> None:
    """Write one tensor called w whose bytes start at an odd place."""
    header = json.dumps({"w": entry}).encode()
    header += b" " * (1 - len(header) % 2)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def test_every_bfloat16_value_is_widened_as_torch_widens_it(tmp_path: Path) -> None:
    import torch

    bits = np.arange(1 << 16, dtype=np.uint16)
    entry = {"dtype": "BF16", "shape": [256, 256], "data_offsets": [0, 1 << 17]}
    write_shard(tmp_path / "w", entry, bits.tobytes())
    stored = read_shard(tmp_path / "w")["w"]
    assert stored.offset % 2 == 1  # other writers need not align
    wanted = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    found = widen(stored.read()).reshape(-1)
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [0, 4]},
    ],
    ids=str,
)
def test_a_malformed_header_entry_is_refused_by_name(entry: dict[str, Any], tmp_path: Path) -> None:
    write_shard(tmp_path / "w", entry, b"\0" * 4)
    with pytest.raises(CheckpointError, match="w: w: "):
        read_shard(tmp_path / "w")
