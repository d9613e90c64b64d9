"""What vLLM's clients ask of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.serving import Server, serve
from tests.runtime.server.talking import TALK, TOKENIZER
from tests.toy_engine import BOS, EOS, script, write_toy_engine
from trtcoder import LLM

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
# Behind a prompt of BOS and one letter. The letters é and 😀 are of two and four tokens.
ANSWER = "é😀 ab"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("scripted")
    folder = write_toy_engine(work / "engine", scripted=script(2, [*TOKENIZER.encode(ANSWER), EOS]))
    with serve(folder, work) as started:
        yield started


def choices(events: list[Any]) -> list[Any]:
    return [choice for event in events[:-1] for choice in event["choices"]]


def test_a_completion_tells_the_ids_of_prompt_and_answer(scripted: Server) -> None:
    body: dict[str, Any] = {"prompt": "x", "max_tokens": 20, "return_token_ids": True}
    (whole,) = scripted.post(COMPLETIONS, **body).json()["choices"]
    assert whole["prompt_token_ids"] == [BOS, *TOKENIZER.encode("x")]
    assert whole["token_ids"] == [*TOKENIZER.encode(ANSWER), EOS]
    first, *others = choices(scripted.events(COMPLETIONS, **body))
    assert first["prompt_token_ids"] == whole["prompt_token_ids"]
    assert first["token_ids"] == []
    assert [id for each in others for id in each["token_ids"]] == whole["token_ids"]
    assert "".join(each["text"] for each in (first, *others)) == ANSWER


def test_a_chat_tells_the_ids_of_prompt_and_answer(roomy: Server) -> None:
    body: dict[str, Any] = {"messages": TALK, "max_tokens": 7, "return_token_ids": True}
    whole = roomy.post(CHAT, **body).json()
    asked = roomy.post("/tokenize", messages=TALK).json()
    assert whole["prompt_token_ids"] == asked["tokens"]
    assert len(whole["choices"][0]["token_ids"]) == 7
    first, *others = roomy.events(CHAT, **body)[:-1]
    assert first["prompt_token_ids"] == whole["prompt_token_ids"]
    assert not any("prompt_token_ids" in each for each in others)
    told = [id for each in others for id in each["choices"][0]["token_ids"]]
    assert told == whole["choices"][0]["token_ids"]


def test_nobody_is_told_of_tokens_unasked(roomy: Server) -> None:
    # vLLM's clients read these fields without asking whether they are there.
    completion = roomy.post(COMPLETIONS, prompt="a", max_tokens=2).json()["choices"][0]
    chat = roomy.post(CHAT, messages=TALK, max_tokens=2).json()
    of_prompt = {"prompt_token_ids": None, "prompt_logprobs": None}
    assert {"token_ids": None, **of_prompt}.items() <= completion.items()
    assert of_prompt.items() <= chat.items()
    assert chat["choices"][0]["token_ids"] is None
    streams = (
        roomy.events(COMPLETIONS, prompt="a", max_tokens=2),
        roomy.events(CHAT, messages=TALK, max_tokens=2),
    )
    for stream in streams:
        assert "token_ids" not in str(stream)


def test_the_prompts_log_probabilities_are_those_of_its_echo(roomy: Server) -> None:
    body: dict[str, Any] = {"prompt": "abc", "max_tokens": 1}
    (told,) = roomy.post(COMPLETIONS, **body, prompt_logprobs=2).json()["choices"]
    (echoed,) = roomy.post(COMPLETIONS, **body, echo=True, logprobs=2).json()["choices"]
    first, *others = told["prompt_logprobs"]
    assert first is None
    values = echoed["logprobs"]["token_logprobs"][1:4]
    for token, value, found in zip(TOKENIZER.encode("abc"), values, others, strict=True):
        assert found[str(token)]["logprob"] == value
        ranks = sorted(each["rank"] for each in found.values() if each["rank"] is not None)
        assert ranks == [1, 2]
        assert found[str(token)]["decoded_token"] == TOKENIZER.decode([token])


def test_echo_and_prompt_logprobs_have_a_number_of_alternatives_each(roomy: Server) -> None:
    body: dict[str, Any] = {"prompt": "ab", "max_tokens": 1, "echo": True}
    (found,) = roomy.post(COMPLETIONS, **body, logprobs=1, prompt_logprobs=5).json()["choices"]
    assert all(len(each) >= 5 for each in found["prompt_logprobs"][1:])
    assert all(len(each) <= 2 for each in found["logprobs"]["top_logprobs"][1:])


def test_a_chats_prompt_has_log_probabilities_too(roomy: Server) -> None:
    found = roomy.post(CHAT, messages=TALK, max_tokens=1, prompt_logprobs=0).json()
    first, *others = found["prompt_logprobs"]
    assert first is None
    ids = roomy.post("/tokenize", messages=TALK).json()["tokens"]
    assert [list(each) for each in others] == [[str(token)] for token in ids[1:]]


def test_the_chosen_token_is_always_among_the_most_likely(roomy: Server) -> None:
    for count in (0, 3):
        answer = roomy.post(COMPLETIONS, prompt="a", max_tokens=2, logprobs=count, logit_bias={
            "7": 100.0
        }).json()  # fmt: skip
        found = answer["choices"][0]["logprobs"]
        for token, value, top in zip(
            found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
        ):
            assert top[token] == value
            assert max(count, 1) <= len(top) <= count + 1


def test_tokens_can_be_told_by_their_ids(roomy: Server) -> None:
    body: dict[str, Any] = {
        "max_tokens": 3,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    (text,) = roomy.post(COMPLETIONS, prompt="a", **body, logprobs=1).json()["choices"]
    assert text["logprobs"]["tokens"] == [f"token_id:{token}" for token in text["token_ids"]]
    (said,) = roomy.post(CHAT, messages=TALK, **body, logprobs=True).json()["choices"]
    names = [each["token"] for each in said["logprobs"]["content"]]
    assert names == [f"token_id:{token}" for token in said["token_ids"]]


@pytest.mark.parametrize("more", [{}, {"stop": "b!"}, {"echo": True}])
def test_offsets_of_a_stream_are_those_of_the_whole(scripted: Server, more: Any) -> None:
    body: dict[str, Any] = {"prompt": "x", "max_tokens": 20, "logprobs": 0, **more}
    (whole,) = scripted.post(COMPLETIONS, **body).json()["choices"]
    events = choices(scripted.events(COMPLETIONS, **body))
    told = [each["logprobs"]["text_offset"] for each in events if each["logprobs"] is not None]
    assert [offset for offsets in told for offset in offsets] == whole["logprobs"]["text_offset"]


def test_an_offset_is_the_character_that_a_token_begins_or_goes_on_with(scripted: Server) -> None:
    (found,) = scripted.post(COMPLETIONS, prompt="x", max_tokens=20, logprobs=0).json()["choices"]
    # é is of two tokens, 😀 of four; the end of sequence stands behind all.
    assert found["text"] == ANSWER
    assert found["logprobs"]["text_offset"] == [0, 1, 1, 2, 2, 2, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("side", "expected"), [(None, "cdef"), ("left", "cdef"), ("right", "abcd")]
)
def test_a_prompt_can_be_cut(roomy: Server, side: str | None, expected: str) -> None:
    ids = TOKENIZER.encode("abcdef")
    body: dict[str, Any] = {"max_tokens": 1, "return_token_ids": True, "truncation_side": side}
    (found,) = roomy.post(COMPLETIONS, prompt=ids, truncate_prompt_tokens=4, **body).json()[
        "choices"
    ]
    assert found["prompt_token_ids"] == TOKENIZER.encode(expected)
    chat = roomy.post(CHAT, messages=TALK, truncate_prompt_tokens=3, **body).json()
    assert len(chat["prompt_token_ids"]) == 3
    assert chat["usage"]["prompt_tokens"] == 3


def test_a_prompt_beyond_the_context_is_cut_to_it(tmp_path: Path) -> None:
    folder = write_toy_engine(tmp_path / "engine")
    with serve(folder, tmp_path) as server:
        body: dict[str, Any] = {"prompt": "a" * 99, "max_tokens": 1}
        assert server.post(COMPLETIONS, **body).status_code == 400
        found = server.post(COMPLETIONS, **body, truncate_prompt_tokens=-1).json()
        assert found["usage"]["prompt_tokens"] == LLM(folder).context


def test_prefixes_are_shared_among_requests_of_the_same_salt_only(roomy: Server) -> None:
    def cached(**more: Any) -> int:
        body = {"prompt": "salted " * 20, "max_tokens": 1, **more}
        usage = roomy.post(COMPLETIONS, **body).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached(cache_salt="one") == 0
    assert cached(cache_salt="one") > 0
    assert cached(cache_salt="two") == 0
    # What other requests without a salt have left is a letter or two.
    assert cached() < 5


def test_usage_of_each_chunk_counts_what_was_told(roomy: Server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    for path, asked in ((COMPLETIONS, {"prompt": "a"}), (CHAT, {"messages": TALK})):
        events = roomy.events(path, **asked, max_tokens=6, stream_options=options)[:-1]
        counts = [event["usage"]["completion_tokens"] for event in events]
        assert counts == sorted(counts)
        assert set(counts) >= {1, 2, 3, 4, 5, 6}
        assert counts[-1] == 6
        for event in events:
            usage = event["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        only_last = roomy.events(
            path, **asked, max_tokens=6, stream_options={"include_usage": True}
        )
        assert [event["usage"] for event in only_last[:-2]] == [None] * (len(only_last) - 2)


def test_an_answer_can_begin_without_what_the_format_writes_before_it(roomy: Server) -> None:
    body: dict[str, Any] = {"messages": TALK, "max_tokens": 1, "return_token_ids": True}
    usual = roomy.post(CHAT, **body).json()["prompt_token_ids"]
    bare = roomy.post(CHAT, **body, add_generation_prompt=False).json()["prompt_token_ids"]
    assert usual == [*bare, *TOKENIZER.encode("Assistant:")]


@pytest.mark.parametrize(
    "more",
    [
        {"allowed_token_ids": [1]},
        {"bad_words": ["a"]},
        {"logprob_token_ids": [1]},
        {"use_beam_search": True},
        {"prompt_embeds": "QUJD"},
        {"prompt_logprobs": -1},
        {"prompt_logprobs": 1, "stream": True},
        {"truncate_prompt_tokens": 0},
        {"truncate_prompt_tokens": -2},
        {"cache_salt": ""},
    ],
)
@pytest.mark.parametrize(("path", "asked"), [(COMPLETIONS, "prompt"), (CHAT, "messages")])
def test_what_would_change_the_answer_is_refused_by_name(
    roomy: Server, path: str, asked: str, more: dict[str, Any]
) -> None:
    given = {asked: "a" if asked == "prompt" else TALK}
    response = roomy.post(path, **given, max_tokens=1, **more)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(more))


def test_a_chat_does_not_echo(roomy: Server) -> None:
    response = roomy.post(CHAT, messages=TALK, max_tokens=1, echo=True)
    assert response.json()["error"]["param"] == "echo"
    assert roomy.post(CHAT, messages=TALK, max_tokens=1, echo=False).status_code == 200


def test_what_changes_nothing_is_passed_over(roomy: Server) -> None:
    # As clients that set every field send them.
    empty = {"bad_words": [], "use_beam_search": False, "allowed_token_ids": None, "priority": 0}
    response = roomy.post(COMPLETIONS, prompt="a", max_tokens=1, **empty)
    assert response.status_code == 200
