from __future__ import annotations

from typing import Any

from tests.runtime.server.serving import Server
from tests.runtime.server.talking import CLOCK, TALK, TOKENIZER, WEATHER, openai_tools
from tests.toy_engine import BOS, BOS_TEXT


def test_tokens_there_and_back(roomy: Server) -> None:
    found = roomy.post("/tokenize", content="héllo").json()
    assert found["tokens"] == TOKENIZER.encode("héllo")
    assert found["count"] == len(found["tokens"])
    assert roomy.post("/detokenize", tokens=found["tokens"]).json()["content"] == "héllo"
    pieces = roomy.post("/tokenize", content="é", with_pieces=True).json()["tokens"]
    assert [each["piece"] for each in pieces] == [[0xC3], [0xA9]]
    assert roomy.post("/detokenize", tokens=[99999]).status_code == 400


def test_llama_servers_text_has_no_bos_unless_asked_and_vllms_has(roomy: Server) -> None:
    ids = TOKENIZER.encode("a")
    for body, expected in (
        ({"content": "a"}, ids),
        ({"content": "a", "add_special": True}, [BOS, *ids]),
        ({"prompt": "a"}, [BOS, *ids]),
        ({"prompt": "a", "add_special_tokens": True}, [BOS, *ids]),
        ({"prompt": "a", "add_special_tokens": False}, ids),
    ):
        assert roomy.post("/tokenize", **body).json()["tokens"] == expected, body


def test_the_vocabularys_entries_are_told_where_asked_for(roomy: Server) -> None:
    found = roomy.post("/tokenize", prompt="a b", return_token_strs=True).json()
    # A byte-level vocabulary writes a blank as Ġ.
    assert found["token_strs"] == [BOS_TEXT, "a", "Ġ", "b"]
    assert roomy.post("/tokenize", prompt="ab").json()["token_strs"] is None


def test_messages_have_the_tokens_that_their_chat_has(roomy: Server) -> None:
    begun = [*TALK, {"role": "assistant", "content": "Yes"}]
    asked: list[dict[str, Any]] = [
        {"messages": TALK},
        {"messages": TALK, "tools": openai_tools(WEATHER, CLOCK)},
        {"messages": TALK, "add_generation_prompt": False},
        {"messages": begun, "continue_final_message": True, "add_generation_prompt": False},
    ]
    counts = []
    for body in asked:
        ids = roomy.post("/tokenize", **body).json()["tokens"]
        chat = roomy.post("/v1/chat/completions", **body, max_tokens=1, return_token_ids=True)
        assert ids == chat.json()["prompt_token_ids"]
        counts.append(len(ids))
    assert counts[1] > counts[0] > counts[2]


def test_a_last_message_is_continued_or_answered(roomy: Server) -> None:
    body = {"messages": TALK, "continue_final_message": True, "add_generation_prompt": True}
    response = roomy.post("/tokenize", **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "add_generation_prompt"
    assert roomy.post("/tokenize").json()["error"]["param"] == "content"
