from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toy_engine import BOS, toy_manifest, write_toy_engine
from trtcoder import LLM
from trtcoder.errors import RequestError
from trtcoder.runtime.cache.prefix_store import PrefixStore
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.requests.generation import Generation
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams

PROMPT = (BOS, *(index % 90 for index in range(120)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = dataclasses.replace(toy_manifest().model, max_positions=512)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    return write_toy_engine(tmp_path_factory.mktemp("toy") / "engine", manifest)


def ask(
    engine: Path, store: Path | None, prompt: tuple[int, ...] = PROMPT, salt: str = ""
) -> tuple[list[int], int]:
    """Answer in a fresh engine; return the tokens, and how many of the prompt's were cached."""
    with LLM(engine, settings=EngineSettings(threads=1, prefix_store=store)) as llm:
        request = Request(prompt, SamplingParams(max_tokens=6, ignore_eos=True), salt=salt)
        generation = Generation(llm.engine.thread, request)
        tokens = [chunk.token or 0 for chunk in generation]
        return tokens, generation.usage.cached_tokens


def test_a_prefix_outlives_its_process(engine: Path, tmp_path: Path) -> None:
    expected, cached = ask(engine, tmp_path)
    assert cached == 0
    assert ask(engine, tmp_path) == (expected, 120)
    longer = (*PROMPT, 7, 8, 9)
    assert ask(engine, tmp_path, longer) == (ask(engine, None, longer)[0], 120)
    other = (*PROMPT[:50], 3, 3)
    assert ask(engine, tmp_path, other) == (ask(engine, None, other)[0], 48)


def test_keys_and_engines_share_nothing(engine: Path, tmp_path: Path) -> None:
    ask(engine, tmp_path, salt="key-a")
    assert ask(engine, tmp_path, salt="key-b")[1] == 0
    assert ask(engine, tmp_path, salt="key-a")[1] == 120
    manifest = dataclasses.replace(toy_manifest(), recipe={"weights": "int8", "cache": "fp32"})
    model = dataclasses.replace(manifest.model, max_positions=512)
    another = write_toy_engine(tmp_path / "another", dataclasses.replace(manifest, model=model))
    assert ask(another, tmp_path, salt="key-a")[1] == 0


@pytest.mark.parametrize("damage", ["changed", "cut", "empty", "gone"])
def test_damaged_files_are_computed_again(engine: Path, tmp_path: Path, damage: str) -> None:
    expected, _ = ask(engine, tmp_path)
    files = sorted(tmp_path.rglob("*.rows"))
    assert len(files) == (121 + 5) // 4  # the last token is sampled and not computed
    for path in files:
        data = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
            continue
        data[-1] ^= 1
        path.write_bytes({"changed": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[damage])
    assert ask(engine, tmp_path) == (expected, 0)
    assert ask(engine, tmp_path) == (expected, 120)


def test_the_folder_keeps_its_size_and_what_was_used_last(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, "engine", 1000)
    for index in range(20):
        store.write(f"{index:02}", b"x" * 80)
    store.close()
    files = sorted(path.stem for path in tmp_path.rglob("*.rows"))
    assert files == [f"{index:02}" for index in range(10, 20)]
    again = PrefixStore(tmp_path, "engine", 1000)
    assert again.read("10") == b"x" * 80
    again.write("20", b"y" * 80)
    again.close()
    assert not (tmp_path / "engine" / "11.rows").exists()
    assert (tmp_path / "engine" / "10.rows").exists()


def test_what_a_kill_left_unfinished_is_removed(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "ab.7.partial").write_bytes(b"half")
    PrefixStore(tmp_path, "engine", 1000).close()
    assert list((tmp_path / "engine").iterdir()) == []


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match=r"prefix_store: .* cannot be used"):
        PrefixStore(tmp_path / "file", "engine", 1000)


@given(
    one=st.lists(st.integers(0, 3), max_size=12),
    two=st.lists(st.integers(0, 3), max_size=12),
    salts=st.tuples(st.sampled_from(["", "a"]), st.sampled_from(["", "a"])),
)
def test_equal_names_are_equal_prefixes(
    one: list[int], two: list[int], salts: tuple[str, str]
) -> None:
    store = PrefixStore.__new__(PrefixStore)
    first = list(store.keys(salts[0], one, 4))
    second = list(store.keys(salts[1], two, 4))
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        same = salts[0] == salts[1] and one[: 4 * index + 4] == two[: 4 * index + 4]
        assert (a == b) == same
