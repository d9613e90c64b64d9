"""What form an answer must have, as a grammar for llguidance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtcoder.errors import RequestError
from trtcoder.runtime.constraints.bounds import MAX_SIZE, check

# Without bounds a weak model may write white space for ever.
_WHITE_SPACE = r"[ ]|\n[ \t]{0,40}"


@dataclass(frozen=True, slots=True)
class Constraint:
    """A form that an answer must have; made by `json_schema` and the other class methods.

    >>> Constraint.choice(["yes", "no"])                                          # doctest: +SKIP

    Attributes:
        grammar: llguidance's, as JSON.
        source: the parameter that asked for it, which errors name.
    """

    grammar: str
    source: str = "constraint"

    @classmethod
    def json_schema(
        cls,
        schema: Mapping[str, Any] | bool | str,
        *,
        lenient: bool = False,
        source: str = "constraint",
    ) -> Constraint:
        """Return the constraint to JSON that fits a schema, which may be JSON text itself.

        Args:
            schema: a JSON schema.
            lenient: pass over keywords that cannot be held, which are refused otherwise.
            source: the parameter that gave it.

        Raises:
            RequestError: it is not a JSON schema.
        """
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise RequestError(f"{source}: the schema is not JSON: {error}") from error
        if not isinstance(schema, Mapping | bool):
            raise RequestError(f"{source}: a JSON schema is an object, not {schema!r}")
        return cls.of({"json_schema": schema_for(schema, lenient=lenient)}, source)

    @classmethod
    def json_object(cls, source: str = "constraint") -> Constraint:
        """Return the constraint to any JSON object."""
        return cls.json_schema({"type": "object"}, source=source)

    @classmethod
    def regex(cls, pattern: str, source: str = "constraint") -> Constraint:
        """Return the constraint to text that a regular expression matches as a whole."""
        return cls.of({"regex": pattern}, source)

    @classmethod
    def lark(cls, grammar: str, source: str = "constraint") -> Constraint:
        """Return the constraint to a grammar in llguidance's form of Lark, from ``start``."""
        return cls.of({"lark_grammar": grammar}, source)

    @classmethod
    def gbnf(cls, grammar: str, source: str = "constraint") -> Constraint:
        """Return the constraint to a grammar in llama.cpp's form, from ``root``."""
        return cls.of({"gbnf": grammar}, source)

    @classmethod
    def choice(cls, texts: Sequence[str], source: str = "constraint") -> Constraint:
        """Return the constraint to one of several texts.

        Raises:
            RequestError: there is none, or an empty one.
        """
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise RequestError(f"{source}: expected a list of texts, none of them empty")
        options = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return cls.lark(f"start: {options}\n", source)

    @classmethod
    def of(cls, body: Mapping[str, Any], source: str, **named: Mapping[str, Any]) -> Constraint:
        """Return the constraint of llguidance's grammar ``body``, which may refer to ``named``.

        Raises:
            RequestError: it is not JSON, or costs more than a request may (`bounds`).
        """
        grammars = [{"name": "body", **body}]
        grammars += [{**grammar, "name": name} for name, grammar in named.items()]
        try:
            text = json.dumps(grammars)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"{source}: it is not JSON: {error}") from error
        if len(text) > MAX_SIZE:
            raise RequestError(f"{source}: the form is longer than {MAX_SIZE:,} characters")
        check(grammars, source)
        return cls(text, source)

    def grammars(self) -> list[dict[str, Any]]:
        """Return llguidance's grammars, the first of which is the answer.

        Those with the key ``regex`` or ``gbnf`` are still to be converted.
        """
        found: list[dict[str, Any]] = json.loads(self.grammar)
        return found


def schema_for(schema: Mapping[str, Any] | bool, *, lenient: bool) -> dict[str, Any]:
    """Return a schema with what llguidance must know beside it."""
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    options = {"whitespace_pattern": _WHITE_SPACE, "lenient": lenient}
    return {**schema, "x-guidance": options}
