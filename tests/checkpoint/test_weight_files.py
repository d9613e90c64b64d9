"""Folders as they lie about: two sets of weights, tied heads, pointers, names and no folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 a dtype of NumPy
import numpy as np
import pytest
import safetensors.numpy

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.checkpoint.weight_files import INDEX, SINGLE
from trtcoder.errors import CheckpointError, ConfigError, TrtcoderError
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NORM = "model.norm.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 8589934592\n"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "model"
    return write_random_checkpoint(folder, tiny_config(), shard_bytes=400_000)


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def tensors_of(folder: Path) -> dict[str, Any]:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def save_single(folder: Path, tensors: dict[str, Any]) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    safetensors.numpy.save_file(tensors, folder / SINGLE)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    return str(caught.value)


def loaded_by_transformers(folder: Path) -> dict[str, np.ndarray]:
    import torch
    import transformers

    auto: Any = transformers
    model = auto.DeepseekV2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return {EMBEDDING: embedding.detach().numpy(), HEAD: head.detach().numpy()}


def test_two_sets_of_weights_are_refused_by_both_names(folder: Path) -> None:
    safetensors.numpy.save_file(tensors_of(folder), folder / SINGLE)
    message = refusal(folder)
    assert f"{SINGLE} and the" in message
    assert INDEX in message


def test_an_index_that_names_the_one_file_is_one_set(folder: Path) -> None:
    tensors = tensors_of(folder)
    save_single(folder, tensors)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, SINGLE)}))
    assert Checkpoint.open(folder).notes == ()


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("name", ["consolidated.safetensors", "model-00009-of-000009.safetensors"])
def test_files_that_are_passed_over_are_noted(folder: Path, single: bool, name: str) -> None:
    digest = Checkpoint.open(folder).digest()
    if single:
        checkpoint = Checkpoint.open(folder)
        bits = {each: checkpoint.stored(each) for each in checkpoint.names()}
        save_single(folder, {each: value.view(np.float16) for each, value in bits.items()})
    (folder / name).write_bytes(b"of another format")
    opened = Checkpoint.open(folder)
    assert [name in note for note in opened.notes] == [True]
    assert single or opened.digest() == digest


def test_a_tensor_in_two_shards_is_refused_by_both_names(folder: Path) -> None:
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    other = next(shard for shard in shards if shard != weight_map[NORM])
    values = safetensors.numpy.load_file(folder / weight_map[NORM])[NORM]
    tensors = safetensors.numpy.load_file(folder / other)
    safetensors.numpy.save_file({**tensors, NORM: values}, folder / other)
    message = refusal(folder)
    assert NORM in message
    assert other in message
    assert weight_map[NORM] in message


def test_a_tensor_that_the_index_does_not_list_is_refused_with_its_shard(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    tensors = safetensors.numpy.load_file(shard)
    safetensors.numpy.save_file({**tensors, "model.extra": np.zeros(3, np.float32)}, shard)
    message = refusal(folder)
    assert "model.extra" in message
    assert shard.name in message
    assert INDEX in message


def test_a_derived_buffer_that_the_index_does_not_list_is_passed_over(folder: Path) -> None:
    names = Checkpoint.open(folder).names()
    shard = sorted(folder.glob("*.safetensors"))[1]
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(16, np.float32)}
    safetensors.numpy.save_file({**safetensors.numpy.load_file(shard), **buffer}, shard)
    assert Checkpoint.open(folder).names() == names


Change = Callable[[dict[str, Any]], None]


def equal(tensors: dict[str, Any]) -> None:
    tensors[HEAD] = tensors[EMBEDDING].copy()


def last_differs(tensors: dict[str, Any]) -> None:
    equal(tensors)
    tensors[HEAD][-1, -1] += 1


def head_alone(tensors: dict[str, Any]) -> None:
    del tensors[EMBEDDING]


def embedding_alone(tensors: dict[str, Any]) -> None:
    del tensors[HEAD]


@pytest.mark.parametrize(
    ("change", "tied", "note"),
    [
        (equal, True, "equals"),
        (last_differs, False, "not tied"),
        (head_alone, True, "serves as both"),
        (embedding_alone, True, None),
    ],
)
def test_a_tied_head_is_read_as_transformers_reads_it(
    folder: Path, change: Change, tied: bool, note: str | None
) -> None:
    tensors = tensors_of(folder)
    change(tensors)
    save_single(folder, tensors)
    edit_config(folder, tie_word_embeddings=True)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config.tie_word_embeddings == tied
    assert checkpoint.config.raw["tie_word_embeddings"] == tied
    assert len(checkpoint.notes) == (note is not None)
    assert note is None or note in checkpoint.notes[0]
    theirs = loaded_by_transformers(folder)
    np.testing.assert_array_equal(checkpoint.read(EMBEDDING), theirs[EMBEDDING])
    head = checkpoint.read(EMBEDDING if tied else HEAD)
    np.testing.assert_array_equal(head, theirs[HEAD])
    assert (HEAD in checkpoint.tensors) == (not tied)


def test_the_same_weights_have_one_digest_with_and_without_the_tied_head(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    tensors = {name: value for name, value in tensors_of_untied(folder).items() if name != HEAD}
    save_single(folder, tensors)
    alone = Checkpoint.open(folder).digest()
    save_single(folder, {**tensors, HEAD: tensors[EMBEDDING]})
    assert Checkpoint.open(folder).digest() == alone


def tensors_of_untied(folder: Path) -> dict[str, Any]:
    return {
        name: value
        for shard in folder.glob("*.safetensors")
        for name, value in _float32(shard).items()
    }


def _float32(shard: Path) -> dict[str, Any]:
    import safetensors.torch

    return {
        name: value.float().numpy() for name, value in safetensors.torch.load_file(shard).items()
    }


@pytest.mark.parametrize("name", ["config.json", INDEX, "shard", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_called_one(folder: Path, name: str) -> None:
    path = sorted(folder.glob("*.safetensors"))[0] if name == "shard" else folder / name
    path.write_bytes(POINTER)
    with pytest.raises(TrtcoderError) as caught:
        read_prompting(Checkpoint.open(folder))
    message = str(caught.value)
    assert path.name in message
    assert "git lfs pull" in message
    assert "truncated" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["config.json", INDEX, "shard"])
def test_a_file_that_may_not_be_read_is_not_downloaded_again(folder: Path, name: str) -> None:
    path = sorted(folder.glob("*.safetensors"))[0] if name == "shard" else folder / name
    path.chmod(0)
    with pytest.raises((CheckpointError, ConfigError), match="may not be read") as caught:
        Checkpoint.open(folder)
    assert "download" not in str(caught.value)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
@pytest.mark.parametrize("name", ["config.json", INDEX, "shard"])
def test_what_the_system_refuses_is_said_as_it_is(
    folder: Path, name: str, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the test above, also for root: the system call is made to fail."""
    path = sorted(folder.glob("*.safetensors"))[0] if name == "shard" else folder / name
    plain = Path.open

    def refusing(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise error
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert str(path) in message
    assert "download" not in message
    assert ("permissions" in message) == isinstance(error, PermissionError)


@pytest.mark.parametrize("opened", [Checkpoint.open, Checkpoint.describe])
def test_a_name_on_the_hub_is_told_how_to_become_a_folder(
    opened: Callable[[str], Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"
    with pytest.raises(CheckpointError, match=f"hf download {name} --local-dir DeepSeek"):
        opened(name)
    with pytest.raises(CheckpointError, match="is not a folder; give the checkpoint's folder"):
        opened("nothing")
    with pytest.raises(CheckpointError, match="is not a folder; give the checkpoint's folder"):
        opened("/no/such/place")


def test_a_file_and_a_folder_of_the_cache_are_told_apart(folder: Path, tmp_path: Path) -> None:
    assert "is a file" in refusal(folder / "config.json")
    cached = tmp_path / "models--deepseek-ai--DeepSeek-Coder-V2-Lite-Base"
    (cached / "snapshots").mkdir(parents=True)
    shutil.move(folder, cached / "snapshots" / "abc123")
    assert "snapshots" in refusal(cached)
    Checkpoint.open(cached / "snapshots" / "abc123")


def test_shards_without_their_index_are_named(folder: Path) -> None:
    (folder / INDEX).unlink()
    message = refusal(folder)
    assert "model-00001-of" in message
    assert f"neither {INDEX}" in message
