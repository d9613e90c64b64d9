from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.serving import Server, serve
from tests.toy_engine import (
    BOS,
    FIM_BEGIN,
    FIM_END,
    FIM_HOLE,
    byte_tokenizer,
    script,
    toy_manifest,
    write_toy_engine,
)
from trtcoder import LLM
from trtcoder.prompting.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer(byte_tokenizer())
PREFIX = "a = 1\nb = f("
# The toy engine answers with this, whatever it is asked, where the prompt has so many tokens.
LONG = "x)\nfor y in z:\n    print(y)\n"


def fim(prefix: str, suffix: str, begun: str = "") -> list[int]:
    encode = TOKENIZER.encode
    middle = [FIM_HOLE, *encode(suffix), FIM_END, *encode(begun)]
    return [BOS, FIM_BEGIN, *encode(prefix), *middle]


def write(folder: Path, prompt: list[int] | None = None) -> Path:
    model = dataclasses.replace(toy_manifest().model, max_positions=256)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    found = script(len(prompt), TOKENIZER.encode(LONG)) if prompt else {}
    return write_toy_engine(folder, manifest, scripted=found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("toy") / "engine")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(folder, tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that fills PREFIX and a suffix of 30 bytes with LONG."""
    work = tmp_path_factory.mktemp("scripted")
    with serve(write(work / "engine", fim(PREFIX, "s" * 30)), work) as started:
        yield started


def ask(server: Server, dialect: str, prefix: str, suffix: str, **options: Any) -> str:
    """Return a middle of at most 20 tokens, by one of the dialects, as a stream or whole."""
    name, _, way = dialect.partition(" ")
    more = {"trtcoder": options} if options else {}
    path, body = {
        "openai": ("/v1/completions", {"prompt": prefix, "suffix": suffix, "max_tokens": 20}),
        "mistral": ("/v1/fim/completions", {"prompt": prefix, "suffix": suffix, "max_tokens": 20}),
        "llama": ("/infill", {"input_prefix": prefix, "input_suffix": suffix, "n_predict": 20}),
    }[name]
    if way:
        events = server.events(path, **body, **more)
        return "".join(read(name, each) for each in events if each != "[DONE]")
    response = server.post(path, **body, **more)
    assert response.status_code == 200, response.text
    return read(name, response.json())


def read(name: str, found: dict[str, Any]) -> str:
    """Return the text of an answer or of a stream's event."""
    if name == "llama":
        return str(found["content"])
    (choice,) = found["choices"]
    if name == "openai":
        return str(choice["text"])
    return str(choice["message" if "message" in choice else "delta"]["content"])


DIALECTS = ["openai", "mistral", "llama", "openai stream", "mistral stream", "llama stream"]


def expected(llm: LLM, ids: list[int], count: int = 20) -> str:
    (output,) = llm.generate(prompt_token_ids=[ids], max_tokens=count)
    return output.outputs[0].text


@pytest.mark.parametrize("dialect", DIALECTS)
def test_healing_and_anchoring_say_only_what_follows_the_cursor(
    server: Server, llm: LLM, dialect: str
) -> None:
    # Tokens are bytes: the last one of the prefix is chosen again, behind the end of the prompt.
    healed = expected(llm, fim(PREFIX[:-1], "c", PREFIX[-1]))
    assert ask(server, dialect, PREFIX, "c", heal=True) == healed
    # An anchor is the start of the cursor's line, whose text begins the middle.
    line = PREFIX.index("b")
    anchored = expected(llm, fim(PREFIX[:line], "c", PREFIX[line:]))
    assert ask(server, dialect, PREFIX, "c", anchored=True) == anchored
    assert ask(server, dialect, PREFIX, "c", anchored=True, heal=False) == anchored
    # At a line's start there is nothing to force.
    assert ask(server, dialect, "a\n", "c", anchored=True, heal=False) == ask(
        server, dialect, "a\n", "c"
    )


def test_a_keystroke_in_an_anchored_line_computes_only_itself(server: Server) -> None:
    suffix, computed = "s" * 100, []
    for end in range(1, 12):
        prefix = "anchored\n" + "typing = it"[:end]
        body: dict[str, Any] = {"input_prefix": prefix, "input_suffix": suffix, "n_predict": 1}
        answer = server.post("/infill", **body, trtcoder={"anchored": True}).json()
        computed.append(answer["timings"]["prompt_n"])
    # Blocks have four tokens.
    assert max(computed[1:]) <= 5
    assert computed[0] > 100


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_single_line_ends_before_its_break(scripted: Server, dialect: str) -> None:
    suffix = "s" * 30
    assert ask(scripted, dialect, PREFIX, suffix) == LONG[:20]
    assert ask(scripted, dialect, PREFIX, suffix, single_line=True) == "x)"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("suffix", "middle"),
    [
        # The bracket that is behind the hole is not closed twice, and the lines not told twice.
        (")\nfor y in z:\n    print(y)\n", "x"),
        ("\nfor y in z:\n    print(y)\n", "x)"),
        ("nothing of this", LONG[:20]),
    ],
)
def test_a_middle_does_not_repeat_what_is_behind_it(
    scripted: Server, dialect: str, suffix: str, middle: str
) -> None:
    suffix = suffix.ljust(30)
    assert ask(scripted, dialect, PREFIX, suffix) == LONG[:20]
    assert ask(scripted, dialect, PREFIX, suffix, trim_suffix=True) == middle


def test_text_with_windows_line_ends_is_filled_with_them(scripted: Server) -> None:
    prefix, suffix = PREFIX.replace("\n", "\r\n"), "s" * 30
    for dialect in DIALECTS:
        assert ask(scripted, dialect, prefix, suffix) == LONG[:20].replace("\n", "\r\n")


@pytest.mark.parametrize("dialect", ["/v1/completions", "/completion", "/api/generate"])
def test_options_without_a_hole_are_refused(server: Server, dialect: str) -> None:
    response = server.post(dialect, model="", prompt="a", trtcoder={"heal": True})
    assert response.status_code == 400
    assert "trtcoder" in response.text


def test_what_does_not_fit_is_cut_round_the_hole_and_said(server: Server) -> None:
    lines = "".join(f"line {number}\n" for number in range(100))
    body: dict[str, Any] = {"prompt": f"{lines}here", "suffix": f"there\n{lines}"}
    response = server.post("/v1/completions", **body, max_tokens=4)
    assert response.status_code == 200
    assert response.json()["usage"]["prompt_tokens"] <= 252
    assert "before=" in response.headers["x-trtcoder-context-cut"]
    infill = server.post(
        "/infill", input_prefix=body["prompt"], input_suffix=body["suffix"], n_predict=4
    )
    assert infill.json()["truncated"] is True
    assert "x-trtcoder-context-cut" in infill.headers
    short = server.post("/v1/completions", prompt="a", suffix="b", max_tokens=4)
    assert "x-trtcoder-context-cut" not in short.headers


def test_an_operators_choice_holds_where_a_request_does_not_say(
    folder: Path, llm: LLM, tmp_path: Path
) -> None:
    line = PREFIX.index("b")
    anchored = expected(llm, fim(PREFIX[:line], "c", PREFIX[line:]))
    healed = expected(llm, fim(PREFIX[:-1], "c", PREFIX[-1]))
    plain = expected(llm, fim(PREFIX, "c"))
    chosen = tmp_path / "serve.toml"
    chosen.write_text("fim-anchored = true\nfim-heal = false\nfim-trim-suffix = true\n")
    with serve(folder, tmp_path, "--config", str(chosen), "--fim-single-line") as server:
        for dialect in ("openai", "mistral", "llama"):

            def asked(dialect: str = dialect, **options: Any) -> str:
                return ask(server, dialect, PREFIX, "c", single_line=False, **options)

            assert asked() == anchored
            assert asked(anchored=False) == plain
            assert asked(anchored=False, heal=True) == healed
        body = {"model": "", "prompt": PREFIX, "suffix": "c", "stream": False}
        filled = server.post("/api/generate", **body, options={"num_predict": 20}).json()
        assert filled["response"] == anchored.partition("\n")[0]


def test_a_form_goes_before_healing_that_only_the_operator_asks_for(
    folder: Path, tmp_path: Path
) -> None:
    with serve(folder, tmp_path, "--fim-heal") as server:
        body = {"prompt": PREFIX, "suffix": "c", "guided_choice": ["left"]}
        answer = server.post("/v1/completions", **body).json()
        assert answer["choices"][0]["text"] == "left"
