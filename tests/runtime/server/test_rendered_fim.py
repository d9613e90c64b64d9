from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runtime.server.serving import Server, serve
from tests.toy_engine import BOS_TEXT, SPECIAL, byte_tokenizer, toy_manifest, write_toy_engine
from trtcoder import LLM
from trtcoder.prompting.tokenizer import TextTokenizer

BEGIN, HOLE, END = (f"<｜{name}｜>" for name in SPECIAL[2:])
TOKENIZER = TextTokenizer(byte_tokenizer())
WRITTEN = f"{BEGIN}ab{HOLE}c{END}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = dataclasses.replace(toy_manifest().model, max_positions=256)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    return write_toy_engine(tmp_path_factory.mktemp("toy") / "engine", manifest)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(folder, tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder)


@dataclass(frozen=True)
class Asked:
    """What a raw endpoint made of a prompt."""

    text: str
    tokens: int


def ask(server: Server, path: str, prompt: str) -> Asked:
    if path == "/v1/completions":
        found = server.post(path, prompt=prompt, max_tokens=4).json()
        return Asked(found["choices"][0]["text"], found["usage"]["prompt_tokens"])
    if path == "/completion":
        found = server.post(path, prompt=prompt, n_predict=4).json()
        return Asked(found["content"], found["tokens_evaluated"])
    found = server.post(
        path, model="", prompt=prompt, raw=True, stream=False, options={"num_predict": 4}
    ).json()
    return Asked(found["response"], found["prompt_eval_count"])


RAW = ["/v1/completions", "/completion", "/api/generate"]


@pytest.mark.parametrize("path", RAW)
@pytest.mark.parametrize("prompt", [WRITTEN, BOS_TEXT + WRITTEN])
def test_markers_that_a_client_has_written_make_a_hole(
    server: Server, llm: LLM, path: str, prompt: str
) -> None:
    (expected,) = llm.fill(("ab", "c"), max_tokens=4)
    found = ask(server, path, prompt)
    assert found == Asked(expected.outputs[0].text, len(llm.prompts.fim("ab", "c")))


@pytest.mark.parametrize("path", RAW)
@pytest.mark.parametrize(
    "prompt",
    [
        f" {WRITTEN}",
        f"{WRITTEN}\n",
        f"{WRITTEN}d",
        f"{BEGIN}{HOLE}{END[:-1]}",
        f"{BEGIN}a{HOLE}{HOLE}{END}",
        f"{BEGIN}{BEGIN}{HOLE}{END}",
        f"{BEGIN}a{END}",
        f"{HOLE}a{BEGIN}b{END}",
        f"{BEGIN}a{END}b{HOLE}",
        f"{BEGIN}a{HOLE}",
        WRITTEN.replace("｜", "|").replace("▁", "_"),
    ],
)
def test_anything_else_stays_text(server: Server, path: str, prompt: str) -> None:
    assert ask(server, path, prompt).tokens == len(TOKENIZER.encode(prompt)) + 1


def test_markers_stay_text_where_a_dialect_has_its_own_hole(server: Server, llm: LLM) -> None:
    text = f"{HOLE}{END}"
    found = server.post("/v1/completions", prompt=text, suffix="", max_tokens=1).json()
    assert found["usage"]["prompt_tokens"] == len(llm.prompts.fim(text, ""))
    infill = server.post("/infill", input_prefix=text, input_suffix="", n_predict=1).json()
    assert infill["tokens_evaluated"] == len(llm.prompts.fim(text, ""))


def test_the_operator_can_switch_it_off(folder: Path, tmp_path: Path) -> None:
    with serve(folder, tmp_path, "--no-rendered-fim") as server:
        for path in RAW:
            assert ask(server, path, WRITTEN).tokens == len(TOKENIZER.encode(WRITTEN)) + 1
