from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.checkpoint.weight_files import INDEX
from trtcoder.testing import random_checkpoint
from trtcoder.testing.random_checkpoint import (
    SPECIAL_TOKENS,
    tiny_config,
    tiny_grouped_config,
    values,
    write_random_checkpoint,
)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_random_checkpoint(tmp_path / name, tiny_config()) for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


@given(st.integers(0, 2**31), st.floats(0.125, 16))
def test_values_are_rounded_as_torch_rounds_to_bfloat16(seed: int, spread: float) -> None:
    import hashlib

    import torch

    key = hashlib.sha256(f"{seed}/w".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "little")))
    drawn = rng.standard_normal(400, dtype=np.float32)
    drawn *= spread / math.sqrt(20)
    wanted = torch.from_numpy(drawn).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    (found,) = values("w", (20, 20), seed, spread)
    np.testing.assert_array_equal(found, wanted)


def test_large_tensors_are_drawn_once_and_come_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_checkpoint, "_SLICE", 1000)
    slices = list(values("w", (25, 100), 0, 1.0))
    assert [len(bits) for bits in slices] == [1000, 1000, 500]
    np.testing.assert_array_equal(slices[1], np.roll(slices[0], 7919))
    assert not np.array_equal(slices[1], slices[0])


@pytest.mark.parametrize("config", [tiny_config(), tiny_grouped_config(), tiny_config(
    vocab_size=1024, bos_token_id=700, eos_token_id=701)])  # fmt: skip
def test_the_tokenizers_ids_are_those_of_the_configuration(
    config: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_random_checkpoint(tmp_path / "checkpoint", config)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos, eos = SPECIAL_TOKENS[:2]
    assert tokenizer.token_to_id(bos) == config["bos_token_id"]
    assert tokenizer.token_to_id(eos) == config["eos_token_id"]
    assert tokenizer.get_vocab_size(with_added_tokens=True) <= config["vocab_size"]
    text = "def f(x):\n\treturn 'ß→' # 中\n"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(f"{bos}a{eos}").ids[0] == config["bos_token_id"]


def test_shards_hold_no_more_than_asked_and_the_index_adds_up(tmp_path: Path) -> None:
    limit = 200_000
    told: list[tuple[int, str]] = []
    folder = write_random_checkpoint(
        tmp_path / "checkpoint",
        tiny_grouped_config(),
        shard_bytes=limit,
        on_tensor=lambda size, name: told.append((size, name)),
    )
    checkpoint = Checkpoint.open(folder)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == checkpoint.nbytes == sum(size for size, _ in told)
    assert [name for _, name in told] == checkpoint.names()
    shards: dict[str, list[int]] = {}
    for name, file in index["weight_map"].items():
        shards.setdefault(file, []).append(checkpoint.tensors[name].nbytes)
    assert len(shards) > 2
    assert all(sum(sizes) <= limit or len(sizes) == 1 for sizes in shards.values())


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(_size: int, name: str) -> None:
        if "layers.1" in name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path / "checkpoint", tiny_config(), on_tensor=interrupt)
    assert list(tmp_path.iterdir()) == []
