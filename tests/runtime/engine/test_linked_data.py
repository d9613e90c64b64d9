"""Engines whose files are links, as a cache of the Hub and careful users have them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.engines import build_engine, probe, write_checkpoint
from trtcoder.bundle.folder import Bundle
from trtcoder.runtime.llm import open_engine
from trtcoder.testing.random_checkpoint import tiny_config

ALL = ("manifest.json", "model.data", "model.onnx", "tokenizer.json", "tokenizer_config.json")
PROMPT = [256, 5, 6, 7]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linked")
    config = tiny_config(num_hidden_layers=2)
    return build_engine(write_checkpoint(folder / "checkpoint", config), folder / "engine").folder


def answer(folder: Path) -> list[int]:
    with open_engine(folder) as llm:
        return llm.generate(PROMPT, max_tokens=6, ignore_eos=True)[0].outputs[0].token_ids


@pytest.mark.parametrize("apart", [False, True], ids=["one place", "a place for each file"])
@pytest.mark.parametrize(
    "links", [ALL, ("model.data",), ("model.onnx",), ("model.data", "model.onnx"), ()]
)
def test_an_engine_of_links_answers_as_the_engine_of_files(
    whole: Path, tmp_path: Path, links: tuple[str, ...], apart: bool
) -> None:
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(whole.iterdir())):
        if path.name not in links:
            shutil.copy(path, snapshot)
            continue
        blobs = tmp_path / (f"blobs{number}" if apart else "blobs")
        blobs.mkdir(exist_ok=True)
        shutil.copy(path, blobs / f"{number:064x}")
        link = snapshot / path.name
        link.symlink_to(os.path.relpath(blobs / f"{number:064x}", snapshot))
    assert answer(snapshot) == answer(whole)
    # A folder that is a link itself.
    (tmp_path / "engine").symlink_to(snapshot)
    assert answer(tmp_path / "engine") == answer(whole)


def test_the_comparison_opens_linked_data_too(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(whole, folder)
    (folder / "model.data").rename(tmp_path / "blob")
    (folder / "model.data").symlink_to(tmp_path / "blob")
    source = write_checkpoint(tmp_path / "checkpoint", tiny_config(num_hidden_layers=2))
    (linked,), (found,) = (
        list(probe(bundle, source).run_all([PROMPT]))
        for bundle in (Bundle.load(folder), Bundle.load(whole))
    )
    np.testing.assert_array_equal(linked.logits, found.logits)
