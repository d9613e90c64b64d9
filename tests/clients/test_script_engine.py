from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.script_engine import write_script_engine
from tests.clients.session import AFTER_RESULT, ANSWER
from trtcoder import LLM


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    script = {ANSWER: " One or two.", AFTER_RESULT: " One after all."}
    folder = write_script_engine(tmp_path_factory.mktemp("script") / "engine", "Script", script)
    with LLM(folder) as opened:
        yield opened


@pytest.mark.parametrize("words", [1, 9_000])
@pytest.mark.parametrize(
    ("end", "answer"), [("", "One or two."), ("</tool_response>", "One after all.")]
)
def test_it_says_what_the_longest_key_says_after_a_text_of_any_length(
    llm: LLM, words: int, end: str, answer: str
) -> None:
    (output,) = llm.chat([{"role": "user", "content": "words " * words + end}])
    assert output.outputs[0].text == answer
    assert output.outputs[0].finish_reason == "stop"


def test_an_answer_ends_where_no_rule_is(llm: LLM) -> None:
    (output,) = llm.generate("nothing of this")
    assert output.outputs[0].text == ""
