"""The Jinja environment of chat templates: what transformers 5.23 offers them, with limits.

The functions, filters, blocks and white space are those of `_cached_compile_jinja_template` in
transformers' utils/chat_template_utils.py. Jinja's sandbox keeps a template from Python's objects
and from files; here each turn of a loop and each call costs a step, and text may not grow without
end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from trtcoder.prompting.marks import Marks

# A message takes one step, and one more for each call that is made for it.
MAX_STEPS = 200_000
# Twenty times what 163,840 tokens spell.
MAX_CHARACTERS = 1 << 24
_MAX_NUMBER = 1 << 24


@dataclass(slots=True)
class _Budget:
    now: datetime
    steps: int = MAX_STEPS
    characters: int = MAX_CHARACTERS


_budget: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def limited(now: datetime) -> Iterator[None]:
    """Give what renders inside a budget; ``now`` is the time that `strftime_now` tells."""
    token = _budget.set(_Budget(now))
    try:
        yield
    finally:
        _budget.reset(token)


def parse_template(text: str) -> nodes.Template:
    """Return a template's syntax tree.

    Raises:
        jinja2.TemplateError: it is not a template.
    """
    return _ENVIRONMENT.parse(text)


def compile_template(text: str, marks: Marks | None) -> Template:
    """Return a template to be rendered inside of `limited`, with ``marks`` in what it writes.

    Raises:
        jinja2.TemplateError: it is not a template.
    """
    tree = _Rewriter(marks).visit(parse_template(text))
    tree.set_environment(_ENVIRONMENT)
    return Template.from_code(_ENVIRONMENT, _ENVIRONMENT.compile(tree), _ENVIRONMENT.globals)


# Filters and methods whose arguments are searched for.
_SEARCHING = {
    "count", "endswith", "find", "index", "lstrip", "partition", "reject", "rejectattr",
    "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "select",
    "selectattr", "split", "startswith", "strip", "trim",
}  # fmt: skip


class _Rewriter(NodeTransformer):
    """Counts turns of loops and what is written, and puts marks into what is written.

    Text that is only compared with other text, such as what a message is split at, gets no marks.
    """

    def __init__(self, marks: Marks | None) -> None:
        self._marks = marks

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        # As a constant it passes by `_written`, which counts it.
        return nodes.Const(self._marked(node.data), lineno=node.lineno)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if isinstance(node.value, str):
            node.value = self._marked(node.value)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_Compare(self, node: nodes.Compare) -> Any:  # noqa: N802
        return self._unmarked(node)

    def visit_Test(self, node: nodes.Test) -> Any:  # noqa: N802
        return self._unmarked(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        node.node = self.visit(node.node)
        node.arg = self._unmarked(node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        node.key, node.value = self._unmarked(node.key), self.visit(node.value)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        if node.node is not None:
            node.node = self.visit(node.node)
        self._arguments(node, node.name)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        name = node.node.attr if isinstance(node.node, nodes.Getattr) else ""
        node.node = self.visit(node.node)
        self._arguments(node, name)
        return node

    def _arguments(self, node: Any, name: str) -> None:
        searched = len(node.args) if name in _SEARCHING else 1 if name == "replace" else 0
        node.args[:] = [
            self._unmarked(value) if index < searched else self.visit(value)
            for index, value in enumerate(node.args)
        ]
        node.kwargs[:] = [self.visit(value) for value in node.kwargs]

    def _unmarked(self, node: Any) -> Any:
        before, self._marks = self._marks, None
        try:
            return self.generic_visit(node) if isinstance(node, _CONTAINERS) else self.visit(node)
        finally:
            self._marks = before

    def _marked(self, text: str) -> str:
        return text if self._marks is None else self._marks.put(text)


_CONTAINERS = (nodes.Compare, nodes.Test)


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """``{% generation %}``: marks what an assistant wrote, for training; here just its contents."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str | list | tuple):
            _check_size(len(left) + (len(right) if isinstance(right, str | list | tuple) else 0))
        elif operator == "*":
            for some, times in ((left, right), (right, left)):
                if isinstance(some, str | list | tuple) and isinstance(times, int):
                    _check_size(len(some) * times)
        elif operator == "**":
            _check_numbers((left, right), 1 << 10)
        elif isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _step()
        _check_numbers((*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)


def _step() -> None:
    budget = _budget.get()
    budget.steps -= 1
    if budget.steps < 0:
        raise TemplateError(f"it takes more than {MAX_STEPS:,} steps")


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise TemplateError(f"it makes more than {MAX_CHARACTERS:,} characters")


def _check_numbers(values: Iterable[Any], limit: int = _MAX_NUMBER) -> None:
    # As widths and counts, such as of center(), larger ones only serve to fill the memory.
    if any(isinstance(value, int | float) and abs(value) > limit for value in values):
        raise TemplateError(f"it calls a function with a number above {limit:,}")


def _check_format(text: str) -> None:
    if re.search(r"[0-9]{6}|\*", text):
        raise TemplateError("it formats with a width of six digits or of a variable")


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _step()
        yield value


def _joined(values: Sequence[Any]) -> str:
    texts = [str(value) for value in values]
    _check_size(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _written(context: Context, value: Any) -> str:
    text, budget = str(value), _budget.get()
    budget.characters -= len(text)
    if budget.characters < 0:
        raise TemplateError(f"it writes more than {MAX_CHARACTERS:,} characters")
    return text


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_numbers((*args, *kwargs.values()))
        return function(value, *args, **kwargs)

    return bounded


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    _check_format(str(value))
    return str(value) % (kwargs or args)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int):
        _check_numbers([indent], 1000)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Dict:
    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not have {name!r}")


def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
        finalize=_written,
        # Or constants would be computed before there is a budget.
        optimized=False,
    )
    environment.filters |= {
        "tojson": _to_json, "format": _format, "_counted": _counted, "_joined": _joined,
        **{name: _bounded(environment.filters[name]) for name in ("center", "indent")},
    }  # fmt: skip
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: _budget.get().now.strftime(form),
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


_ENVIRONMENT = _environment()
