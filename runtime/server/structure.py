"""The form of an answer, as OpenAI's and vLLM's clients ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from trtcoder.errors import RequestError
from trtcoder.runtime.constraints.constraint import Constraint

_KINDS: dict[str, Callable[[Any, str], Constraint]] = {
    "json": lambda value, source: Constraint.json_schema(value, source=source),
    "regex": lambda value, source: Constraint.regex(_text(value, source), source),
    "grammar": lambda value, source: Constraint.lark(_text(value, source), source),
    "choice": lambda value, source: Constraint.choice(_texts(value, source), source),
}
# Options of vLLM's backends that change nothing here, or are as they ask.
_PASSED_OVER = frozenset(
    {"disable_any_whitespace", "disable_fallback", "disable_additional_properties", "json_object"}
)


class StructureFields(BaseModel):
    """What may be asked of an answer's form; one of them at most.

    ``response_format`` is OpenAI's, ``structured_outputs`` and ``guided_…`` are vLLM's, and
    llama-server takes its ``json_schema`` and ``grammar`` here too.
    """

    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    guided_choice: list[str] | None = None
    json_schema: dict[str, Any] | bool | None = None
    grammar: str | None = None

    def constraint(self) -> Constraint | None:
        """Return the form that the answer must have, None where it is free.

        Raises:
            RequestError: several forms, or one that cannot be had; names the parameter.
        """
        found: dict[str, Constraint] = {}
        if self.response_format is not None:
            form = of_response_format(self.response_format)
            if form is not None:
                found["response_format"] = form
        if self.structured_outputs is not None:
            found["structured_outputs"] = _of_structured_outputs(self.structured_outputs)
        for kind, make in _KINDS.items():
            name = f"guided_{kind}"
            value = getattr(self, name)
            if value is not None:
                found[name] = make(value, name)
        if self.json_schema is not None:
            found["json_schema"] = Constraint.json_schema(
                self.json_schema, lenient=True, source="json_schema"
            )
        if self.grammar:
            found["grammar"] = Constraint.gbnf(self.grammar, "grammar")
        if len(found) > 1:
            first, second, *_ = found
            raise RequestError(f"{second}: not together with {first}")
        return next(iter(found.values()), None)


def of_response_format(given: dict[str, Any], source: str = "response_format") -> Constraint | None:
    """Return OpenAI's ``response_format``; None for plain text.

    Raises:
        RequestError: a type that is unknown, or a schema that is missing or malformed.
    """
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        # Some servers take a schema here.
        if given.get("schema") is not None:
            return Constraint.json_schema(given["schema"], source=source)
        return Constraint.json_object(source)
    if kind == "json_schema":
        # The responses endpoint has the schema beside the type.
        inner = given.get("json_schema", given)
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if schema is None:
            raise RequestError(f"{source}: json_schema.schema is missing")
        lenient = inner.get("strict") is not True
        return Constraint.json_schema(schema, lenient=lenient, source=source)
    raise RequestError(
        f"{source}: type {kind!r} is not supported; use text, json_object or json_schema"
    )


def _of_structured_outputs(given: dict[str, Any]) -> Constraint:
    source = "structured_outputs"
    asked = {name: value for name, value in given.items() if value not in (None, False)}
    wanted = [name for name in asked if name in _KINDS or name == "json_object"]
    unknown = [name for name in asked if name not in _KINDS and name not in _PASSED_OVER]
    if unknown:
        raise RequestError(
            f"{source}: {unknown[0]} is not supported; use one of {', '.join(_KINDS)}, json_object"
        )
    if len(wanted) != 1:
        raise RequestError(f"{source}: give exactly one of {', '.join(_KINDS)}, json_object")
    name = wanted[0]
    if name == "json_object":
        return Constraint.json_object(source)
    return _KINDS[name](asked[name], source)


def _text(value: Any, source: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{source}: expected text, found {value!r}")
    return value


def _texts(value: Any, source: str) -> list[str]:
    if not isinstance(value, list):
        raise RequestError(f"{source}: expected a list of texts, found {value!r}")
    return value
