from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.runtime.ray.call import Call, Head, routing_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
SCOPE: dict[str, Any] = {
    "method": "POST",
    "path": "/v1/completions",
    "query_string": b"beta=true",
    "headers": [(b"authorization", b"Bearer key")],
}


def call(**body: Any) -> Call:
    return Call.of(SCOPE, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"prompt": "def f(x):"}, {"prompt": "def f(x):\n    return x"}),
        (
            {"messages": [{"role": "user", "content": "a"}]},
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "c"},
                ]
            },
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]},
        ),
        ({"input_prefix": "x = ", "input_suffix": "1"}, {"input_prefix": "x = 1"}),
        ({"prompt": [1, 22, 3]}, {"prompt": [1, 22, 3, 4]}),
        ({"instructions": "be brief", "input": "a"}, {"instructions": "be brief", "input": "ab"}),
    ],
)
def test_what_begins_alike_has_a_text_that_begins_alike(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    assert call(**second).prompt.startswith(call(**first).prompt)


def test_what_stands_before_a_prompt_counts_first() -> None:
    system = {"system": "You are brief.", "messages": [{"role": "user", "content": "hello"}]}
    assert routing_text(system).startswith("You are brief.")
    other = {"system": "You are long.", "messages": system["messages"]}
    assert not routing_text(other).startswith("You are brief.")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object_is_left_to_the_server(body: bytes) -> None:
    made = Call.of(SCOPE, body)
    assert made.body == body
    assert made.model == ""
    assert made.prompt == "/v1/completions"


@given(JSON)
def test_any_body_has_a_text_and_survives_the_way_to_a_replica(body: Any) -> None:
    made = Call.of(SCOPE, json.dumps(body).encode())
    # Ray's router divides by its length.
    assert made.prompt
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_long_text_is_cut_where_a_router_sees_no_more_of_it() -> None:
    assert len(call(prompt="x" * 1_000_000).prompt) == 65_536


def test_a_replica_sees_the_request_that_came() -> None:
    made = call(prompt="a", model="m")
    scope = made.scope()
    assert made.model == "m"
    for key in ("method", "path", "query_string", "headers"):
        assert scope[key] == SCOPE[key]


def test_headers_are_found_in_any_case() -> None:
    head = Head(200, ((b"Content-Type", b"text/event-stream"),))
    assert head.value(b"content-type") == b"text/event-stream"
    assert head.value(b"x-none") == b""
