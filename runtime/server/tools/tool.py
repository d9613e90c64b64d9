"""Tools, which of them may be called, and calls; as no dialect in particular writes them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trtcoder.errors import RequestError
from trtcoder.runtime.constraints.constraint import Constraint

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")
_MODES: dict[str, Literal["none", "auto", "required"]] = {
    "none": "none",
    "auto": "auto",
    "required": "required",
    "any": "required",
}

# Of grammars of text.
_SYNTAXES = {"lark": Constraint.lark, "regex": Constraint.regex}


@dataclass(frozen=True, slots=True)
class Tool:
    """What the model may ask a client to call: a function, or a tool that takes text.

    Attributes:
        name: by which it is called.
        description: what it does, for the model.
        schema: JSON schema of a function's arguments.
        strict: keywords of the schema that cannot be held are refused instead of passed over.
        is_text: it takes text as it is, in place of arguments.
        form: of that text; None leaves it free.
        grammar: the form as the client wrote it, for the model.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    strict: bool = False
    is_text: bool = False
    form: Constraint | None = None
    grammar: str = ""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools must be called: ``name`` is one that must be; ``parallel`` lets several be."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model has asked for; ``arguments`` is JSON, or a text tool's text."""

    id: str
    name: str
    arguments: str
    is_text: bool = False

    def grown(self, more: str) -> ToolCall:
        """Return the call with more of its arguments."""
        return dataclasses.replace(self, arguments=self.arguments + more)

    @property
    def parsed(self) -> Any:
        """The arguments themselves; none where the answer was cut in them."""
        try:
            return json.loads(self.arguments)
        except ValueError:
            return {}


@dataclass(frozen=True, slots=True)
class ToolBox:
    """The tools of a request.

    Attributes:
        tools: those that can be called.
        choice: whether they must be.
        ignored: types of tools that a client offers and that cannot be had here.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice("none")
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        given: Sequence[Any] | None,
        choice: Any = None,
        *,
        parallel: bool = True,
        texts: bool = False,
    ) -> ToolBox:
        """Read ``tools`` and ``tool_choice`` in OpenAI's or Anthropic's form.

        Args:
            given: the tools.
            choice: whether they must be called.
            parallel: several calls may come.
            texts: the dialect has tools that take text, OpenAI's custom ones.

        Raises:
            RequestError: a malformed tool, or a choice of what is not there.
        """
        tools: dict[str, Tool] = {}
        ignored: list[str] = []
        for number, each in enumerate(given or ()):
            place = f"tools[{number}]"
            if not isinstance(each, Mapping):
                raise RequestError(f"{place}: expected an object, found {each!r}")
            kind = each.get("type") or "function"
            # Anthropic's type of tools that are functions is custom, and OpenAI's custom ones take
            # text.
            is_text = texts and kind == "custom" and "input_schema" not in each
            if kind != "function" and "input_schema" not in each and not is_text:
                ignored.append(str(kind)[:40])
                continue
            tool = _text_tool(each, place) if is_text else _tool(each, place)
            if tool.name in tools:
                raise RequestError(f"{place}: there are two tools named {tool.name!r}")
            tools[tool.name] = tool
        found = _choice(choice, tools, ignored, parallel)
        return cls(tuple(tools.values()), found, tuple(ignored))

    @property
    def offered(self) -> tuple[Tool, ...]:
        """Those that the model is told of."""
        return () if self.choice.mode == "none" else self.tools

    def headers(self) -> dict[str, str]:
        """Return the note of a response about tools that are ignored."""
        names = dict.fromkeys(
            re.sub(r"[^\w.-]", "_", name, flags=re.ASCII) for name in self.ignored
        )
        return {"x-trtcoder-ignored-tools": ", ".join(names)} if names else {}


def _named(given: Mapping[str, Any], kind: str, place: str) -> tuple[Mapping[str, Any], str]:
    """Return the object that describes a tool, which may stand below its kind, and its name."""
    inner = given.get(kind, given)
    if not isinstance(inner, Mapping):
        raise RequestError(f"{place}.{kind}: expected an object, found {inner!r}")
    name = inner.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(
            f"{place}: the name is {name!r}; letters, digits and _ - . : / make one, 256 at most"
        )
    return inner, name


def _text_tool(given: Mapping[str, Any], place: str) -> Tool:
    """Read a tool that takes text, free or of a grammar."""
    inner, name = _named(given, "custom", place)
    description = str(inner.get("description") or "")
    form = inner.get("format") or {"type": "text"}
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "text":
        return Tool(name, description, {}, is_text=True)
    # Chat has the grammar in an object of its own.
    grammar = form.get("grammar", form) if isinstance(form, Mapping) else None
    syntax = grammar.get("syntax") if isinstance(grammar, Mapping) else None
    if kind != "grammar" or not isinstance(grammar, Mapping) or syntax not in _SYNTAXES:
        raise RequestError(
            f"{place}.format: it must be text, or a grammar whose syntax is lark or regex"
        )
    text = grammar.get("definition")
    if not isinstance(text, str):
        raise RequestError(f"{place}.format.definition: expected a grammar, found {text!r}")
    found = _SYNTAXES[syntax](text, "tools")
    return Tool(name, description, {}, is_text=True, form=found, grammar=text)


def _tool(given: Mapping[str, Any], place: str) -> Tool:
    inner, name = _named(given, "function", place)
    schema = inner.get("parameters", inner.get("input_schema"))
    if schema is None:
        schema = {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping):
        raise RequestError(f"{place}: the schema of {name} is an object, not {schema!r}")
    # A client that leaves the type out means an object: arguments have names.
    if not schema.keys() & {"type", "anyOf", "oneOf", "allOf", "$ref"}:
        schema = {"type": "object", **schema}
    description = inner.get("description") or ""
    return Tool(name, str(description), schema, inner.get("strict") is True)


def _choice(
    given: Any, tools: Mapping[str, Tool], ignored: Sequence[str], parallel: bool
) -> ToolChoice:
    if isinstance(given, Mapping):
        if given.get("disable_parallel_tool_use"):
            parallel = False
        kind = given.get("type")
        if kind in ("function", "tool", "custom"):
            inner = given.get(str(kind), given)
            name = inner.get("name") if isinstance(inner, Mapping) else None
            if name not in tools:
                raise RequestError(f"tool_choice: there is no tool named {name!r}")
            return ToolChoice("required", str(name), parallel=False)
        if kind not in _MODES:
            raise RequestError(f"tool_choice: type {kind!r} is not supported here")
        given = kind
    if given is None:
        given = "auto" if tools else "none"
    if not isinstance(given, str) or given not in _MODES:
        raise RequestError(f"tool_choice: expected one of {', '.join(_MODES)} or a tool")
    mode = _MODES[given]
    if mode == "required" and not tools:
        why = f"; {ignored[0]} is not supported here" if ignored else ""
        raise RequestError(f"tool_choice: a call is required and there is no tool to call{why}")
    return ToolChoice(mode if tools else "none", None, parallel)
