from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_engine import BOS, EOS, VOCAB, byte_tokenizer, script, toy_manifest, write_toy_engine
from trtcoder import LLM, Constraint
from trtcoder.errors import RequestError
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.constraints.compiler import ConstraintCompiler
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.sampling.sampler import Sampler

TOKENIZER = TextTokenizer(byte_tokenizer())
COMPILER = ConstraintCompiler(TOKENIZER, VOCAB, [EOS])
# With this temperature the toy's logits, of thousands, choose anything.
HOT = 1e5


def long_engine(folder: Path, answer: str | None = None, prompt: int = 3) -> Path:
    """Write a toy engine with room for an answer."""
    manifest = toy_manifest()
    model = dataclasses.replace(manifest.model, max_positions=512)
    scripted = script(prompt, [*TOKENIZER.encode(answer), EOS]) if answer is not None else {}
    return write_toy_engine(folder, dataclasses.replace(manifest, model=model), scripted=scripted)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with LLM(long_engine(tmp_path_factory.mktemp("toy") / "engine")) as opened:
        yield opened


def sampled(constraint: Constraint, seed: int, **options: Any) -> tuple[str, bool]:
    """Return the text that noise gives under a constraint, and whether it came to an end."""
    random = np.random.default_rng(seed)
    params = SamplingParams(constraint=constraint, seed=seed, **options).resolved(SamplingParams())
    sampler = Sampler(params, [BOS], VOCAB, ends=[EOS], matcher=COMPILER.matcher(constraint))
    tokens: list[int] = []
    while len(tokens) < 300:
        token = sampler.sample(random.normal(0, 5, VOCAB).astype(np.float32)).token
        if token == EOS:
            break
        assert TOKENIZER.token_bytes(token), "a control token"
        tokens.append(token)
        if sampler.is_over:
            break
    else:
        return TOKENIZER.decode(tokens), False
    return TOKENIZER.decode(tokens), True


schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "integer", "minimum": -9, "maximum": 99},
            {"type": "boolean"},
            {"type": "null"},
            {"type": "string", "maxLength": 3, "pattern": "^[a-zé]*$"},
            {"enum": ["a", 1, None, {"b": []}]},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda each: {"type": "array", "items": each, "maxItems": 2}, inner),
        st.builds(
            lambda first, second: {
                "type": "object",
                "properties": {"x": first, "y": second},
                "required": ["x"],
                "additionalProperties": False,
            },
            inner,
            inner,
        ),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
    ),
    max_leaves=4,
)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Judge by the schema itself, for what the strategy above makes."""
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    match schema["type"]:
        case "integer":
            return type(value) is int and -9 <= value <= 99
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "string":
            return isinstance(value, str) and re.fullmatch("[a-zé]{0,3}", value) is not None
        case "array":
            items = schema["items"]
            return (
                isinstance(value, list)
                and len(value) <= 2
                and all(fits(each, items) for each in value)
            )
    known = schema["properties"]
    return (
        isinstance(value, dict)
        and "x" in value
        and set(value) <= set(known)
        and all(fits(each, known[name]) for name, each in value.items())
    )


@settings(max_examples=60, deadline=None)
@given(schemas, st.integers(0, 2**32), st.sampled_from([0.0, 1.0, 5.0]), st.booleans())
def test_noise_under_a_schema_is_json_that_fits_it(
    schema: dict[str, Any], seed: int, temperature: float, with_penalty: bool
) -> None:
    options: dict[str, Any] = {"temperature": temperature}
    if with_penalty:
        options |= {"repetition_penalty": 1.3, "logit_bias": {65: 50.0, EOS: 20.0}, "top_k": 20}
    text, ended = sampled(Constraint.json_schema(schema), seed, **options)
    if ended:
        assert fits(json.loads(text), schema), text


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (Constraint.regex(r"[ab]{2,4}/\d"), r"[ab]{2,4}/\d"),
        (Constraint.regex('é\\n?"x"|\''), 'é\\n?"x"|\''),
        (Constraint.lark('start: ("ab" | "é")~1..3 "."'), r"(ab|é){1,3}\."),
        (
            Constraint.gbnf('root ::= ("ab" | "é"){1,3} tail-end\ntail-end ::= [.]'),
            r"(ab|é){1,3}\.",
        ),
        (Constraint.choice(["yes", "no", 'a "b"\n', "é😀"]), 'yes|no|a "b"\n|é😀'),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 4.0])
def test_noise_under_a_pattern_is_text_that_it_matches(
    constraint: Constraint, pattern: str, seed: int, temperature: float
) -> None:
    text, ended = sampled(constraint, seed, temperature=temperature)
    assert ended
    assert re.fullmatch(pattern, text), text


def test_white_space_between_values_has_bounds() -> None:
    matcher = COMPILER.matcher(Constraint.json_object())
    assert matcher.allows(TOKENIZER.encode("{")[0])
    matcher.advance(TOKENIZER.encode("{")[0])
    space = TOKENIZER.encode(" ")[0]
    for _ in range(100):
        if not matcher.allows(space):
            return
        matcher.advance(space)
    pytest.fail("white space without an end")


def test_an_end_is_allowed_only_where_the_grammar_may_end() -> None:
    matcher = COMPILER.matcher(Constraint.regex("ab*"))
    a, b = TOKENIZER.encode("ab")
    assert not matcher.allows(EOS)
    assert not matcher.mask()[EOS]
    matcher.advance(a)
    for _ in range(2):
        assert matcher.allows(EOS)
        assert set(np.flatnonzero(matcher.mask())) == {b, EOS}
        matcher.advance(b)
    for control in range(BOS, VOCAB):
        assert control == EOS or not matcher.allows(control)


def test_min_tokens_holds_an_end_back_while_the_grammar_has_more() -> None:
    for seed in range(6):
        text, _ = sampled(Constraint.regex("a{1,9}"), seed, min_tokens=5)
        assert len(text) >= 5
        assert sampled(Constraint.choice(["ab"]), seed, min_tokens=5) == ("ab", True)


def test_the_end_of_the_grammar_is_the_end_of_the_answer(llm: LLM) -> None:
    (output,) = llm.generate("a", constraint=Constraint.choice(["yes", "no"]), max_tokens=50)
    (answer,) = output.outputs
    assert answer.text in ("yes", "no")
    assert answer.finish_reason == "stop"


def test_answers_to_one_prompt_do_not_share_a_state(llm: LLM) -> None:
    pattern = "[a-z]{3}[0-9]{3}"
    (output,) = llm.generate(
        "a", constraint=Constraint.regex(pattern), n=6, temperature=HOT, seed=1, logprobs=1
    )
    texts = [answer.text for answer in output.outputs]
    assert all(re.fullmatch(pattern, text) for text in texts)
    assert len(set(texts)) > 1
    (again,) = llm.generate("a", constraint=Constraint.regex(pattern), n=6, temperature=HOT, seed=1)
    assert [answer.text for answer in again.outputs] == texts


def test_what_fits_is_answered_as_without_the_constraint(tmp_path: Path) -> None:
    wanted = '{"a": [1, 2]}'
    with LLM(long_engine(tmp_path / "engine", wanted)) as llm:
        (free,) = llm.generate("f(")
        (held,) = llm.generate("f(", constraint=Constraint.json_object())
    assert free.outputs[0].text == held.outputs[0].text == wanted


def test_the_space_before_a_chats_answer_is_none_of_the_form(llm: LLM) -> None:
    talk = [{"role": "user", "content": "x"}]
    for seed in range(4):
        for pattern in ("ab", " ?ab"):
            (output,) = llm.chat(
                talk, constraint=Constraint.regex(pattern), temperature=HOT, seed=seed
            )
            assert re.fullmatch(pattern, output.outputs[0].text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constraint.regex("(ab", "form"),
        lambda: Constraint.regex("\ud800", "form"),
        lambda: Constraint.regex("[a&&b]", "form"),
        lambda: Constraint.lark("start: missing", "form"),
        lambda: Constraint.lark("", "form"),
        lambda: Constraint.lark('start: "\ud800"', "form"),
        lambda: Constraint.gbnf("", "form"),
        lambda: Constraint.gbnf('other ::= "a"', "form"),
        lambda: Constraint.gbnf("root ::= missing", "form"),
        lambda: Constraint.gbnf('root ::= "\\', "form"),
        lambda: Constraint.gbnf("root ::= " + "(" * 30_000, "form"),
        lambda: Constraint.choice([], "form"),
        lambda: Constraint.choice([""], "form"),
        lambda: Constraint.json_schema("{", source="form"),
        lambda: Constraint.json_schema("[]", source="form"),
        lambda: Constraint.json_schema({"type": "banana"}, source="form"),
        lambda: Constraint.json_schema({"not": {"type": "string"}}, source="form"),
        lambda: Constraint.json_schema({"$ref": "#/nowhere"}, source="form"),
        lambda: Constraint.json_schema({"$ref": "https://example.org/x"}, source="form"),
        lambda: Constraint.json_schema({"type": "string", "pattern": "(a"}, source="form"),
        lambda: Constraint.json_schema(False, source="form"),
        lambda: Constraint.json_schema({"enum": []}, source="form"),
        lambda: Constraint.json_schema({"const": float("nan")}, source="form"),
    ],
)
def test_what_is_malformed_is_refused_by_the_parameters_name(llm: LLM, make: Any) -> None:
    with pytest.raises(RequestError, match=r"^form: "):
        llm.generate("a", constraint=make())


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


DOUBLED = "".join(f"x{number}: x{number + 1} x{number + 1}\n" for number in range(60))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constraint.regex("(a{1000}){1000}", "form"),
        lambda: Constraint.regex("a" * 900_000, "form"),
        lambda: Constraint.regex("a" * 2_000_000, "form"),
        lambda: Constraint.regex("(" * 20_000 + ")" * 20_000, "form"),
        lambda: Constraint.choice([f"a{number}" for number in range(100_000)], "form"),
        lambda: Constraint.lark("start: " + "(" * 50_000, "form"),
        lambda: Constraint.lark(f'start: x0\n{DOUBLED}x60: "a"\n', "form"),
        lambda: Constraint.lark(f'start: X0\n{DOUBLED.upper()}X60: "a"\n', "form"),
        lambda: Constraint.lark('start: %json {"type": "integer", "multipleOf": 1e9}', "form"),
        lambda: Constraint.gbnf("root ::= " + '"a" ' * 20_000, "form"),
        lambda: Constraint.json_schema(nested(300), source="form"),
        lambda: Constraint.json_schema({"enum": ["x" * 2_000_000]}, source="form"),
        lambda: Constraint.json_schema(
            {"properties": {f"p{number}": {"type": "string"} for number in range(20_000)}},
            source="form",
        ),
        lambda: Constraint.json_schema({"type": "integer", "multipleOf": 10**9}, source="form"),
        lambda: Constraint.json_schema({"type": "number", "multipleOf": 0.9999999}, source="form"),
        # Their least common multiple is what costs.
        lambda: Constraint.json_schema(
            {"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, source="form"
        ),
    ],
)
def test_what_would_cost_too_much_is_refused(make: Any) -> None:
    with pytest.raises(RequestError, match=r"^form: "):
        COMPILER.matcher(make())


def test_multiples_and_large_enumerations_are_held() -> None:
    schema = {
        "type": "object",
        "properties": {
            "price": {"type": "number", "multipleOf": 0.05, "minimum": 0, "maximum": 9},
            "count": {"type": "integer", "multipleOf": 250, "minimum": 0, "maximum": 999},
            "kind": {"enum": [f"{number:05}" for number in range(3000)]},
            "data": {"const": {"multipleOf": 10**9}},
        },
        "required": ["price", "count", "kind", "data"],
        "additionalProperties": False,
    }
    text, ended = sampled(Constraint.json_schema(schema), 1)
    found = json.loads(text)
    assert ended
    assert found["count"] % 250 == 0
    assert round(found["price"] * 100) % 5 == 0
    assert len(found["kind"]) == 5


def test_keywords_that_cannot_be_held_are_passed_over_where_that_is_asked(llm: LLM) -> None:
    schema = {"type": "boolean", "not": {"const": True}}
    (output,) = llm.generate("a", constraint=Constraint.json_schema(schema, lenient=True))
    assert json.loads(output.outputs[0].text) in (True, False)


def test_a_model_without_an_end_of_sequence_is_held_too() -> None:
    compiler = ConstraintCompiler(TOKENIZER, VOCAB, [])
    matcher = compiler.matcher(Constraint.choice(["a"]))
    assert matcher.mask().shape == (VOCAB,)
    matcher.advance(TOKENIZER.encode("a")[0])
    assert matcher.is_over
