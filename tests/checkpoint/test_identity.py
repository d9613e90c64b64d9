"""How a checkpoint whose files change is noticed, and what config.json says of its types."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines import write_checkpoint
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import CheckpointError
from trtcoder.testing.random_checkpoint import tiny_config

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return write_checkpoint(tmp_path / "checkpoint", tiny_config(), shard_bytes=1_000_000)


def overwrite(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x00\x3f")


def in_place(path: Path, offset: int) -> None:
    overwrite(path, offset)


def by_another_file(path: Path, offset: int) -> None:
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    overwrite(copy, offset)
    os.replace(copy, path)


@pytest.mark.parametrize("replace", [in_place, by_another_file])
def test_a_shard_with_other_bytes_of_the_same_size_and_time_is_noticed(
    checkpoint: Checkpoint, replace: Callable[[Path, int], None]
) -> None:
    digests = {name: checkpoint.tensor_digest(name) for name in checkpoint.tensors}
    before, stored = checkpoint.identity(), checkpoint.tensors[NAME]
    status = stored.file.path.stat()
    replace(stored.file.path, stored.offset)
    os.utime(stored.file.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = Checkpoint.open(checkpoint.folder)
    after = again.identity()
    assert after != before
    assert all(after[name][:2] == before[name][:2] for name in before)
    seen: list[str] = []
    assert again.changed(digests, lambda size, name: seen.append(name)) == [NAME]
    assert sorted(seen) == sorted(digests)


def test_a_shard_that_is_linked_or_touched_keeps_its_tensors(checkpoint: Checkpoint) -> None:
    digests = {name: checkpoint.tensor_digest(name) for name in checkpoint.tensors}
    before = checkpoint.identity()
    shard = checkpoint.tensors[NAME].file.path
    os.link(shard, checkpoint.folder / "linked")
    shard.touch()
    again = Checkpoint.open(checkpoint.folder)
    assert again.identity() != before
    assert again.changed(digests) == []


def test_the_layout_is_that_of_the_tensors_not_of_the_shards(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    whole = write_checkpoint(tmp_path / "whole", tiny_config())
    assert whole.layout_digest() == checkpoint.layout_digest()
    other = write_checkpoint(tmp_path / "other", tiny_config(moe_intermediate_size=96))
    assert other.layout_digest() != whole.layout_digest()


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ({"dtype": "float32", "torch_dtype": None}, "F32"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "F16"),
        ({"dtype": None, "torch_dtype": "float16"}, "F16"),
        ({"torch_dtype": "float32"}, "F32"),
        ({"dtype": "torch.float16"}, "F16"),
        ({"dtype": "bfloat16", "torch_dtype": "float32"}, "BF16"),
        ({"torch_dtype": None}, "BF16"),
    ],
)
def test_a_description_has_the_type_that_the_configuration_names(
    tmp_path: Path, keys: dict[str, str | None], dtype: str
) -> None:
    config = {key: value for key, value in tiny_config().items() if key != "torch_dtype"}
    (tmp_path / "config.json").write_text(json.dumps(config | keys))
    described = Checkpoint.describe(tmp_path)
    assert described.dtype(NAME) == dtype
    assert described.tensors[NAME].nbytes == (4 if dtype == "F32" else 2) * 192 * 128


def test_a_type_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(dtype="float8_e4m3fn")))
    with pytest.raises(CheckpointError, match="dtype 'float8_e4m3fn' is not one"):
        Checkpoint.describe(tmp_path)
