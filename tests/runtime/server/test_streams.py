from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trtcoder.runtime.server.streams import EventForm, event


def data(text: str) -> dict[str, Any]:
    return {"model": 'a "name", ü', "choices": [{"index": 3, "text": text, "logprobs": None}]}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_form_that_is_filled_is_the_event(text: str) -> None:
    assert EventForm(data(EventForm.GAP)).fill(text) == event(data(text))
