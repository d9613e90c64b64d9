"""The Jinja environment of chat templates: what transformers 5.23 offers them, with limits.

The functions, filters, blocks and white space are those of `_cached_compile_jinja_template` in
transformers' utils/chat_template_utils.py. Jinja's sandbox keeps a template from Python's objects
and from files; here each turn of a loop and each call costs a step, and text may not grow without
end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from trtcoder.prompting.marks import Marks
from trtcoder.prompting.template_budget import budget, check_format, check_numbers, check_size
from trtcoder.prompting.template_rewriting import COUNTED, JOINED, rewrite


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
    tree = rewrite(parse_template(text), marks)
    tree.set_environment(_ENVIRONMENT)
    return Template.from_code(_ENVIRONMENT, _ENVIRONMENT.compile(tree), _ENVIRONMENT.globals)


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
            check_size(len(left) + (len(right) if isinstance(right, str | list | tuple) else 0))
        elif operator == "*":
            for some, times in ((left, right), (right, left)):
                if isinstance(some, str | list | tuple) and isinstance(times, int):
                    check_size(len(some) * times)
        elif operator == "**":
            check_numbers((left, right), 1 << 10)
        elif isinstance(left, str):
            check_format(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        budget().step()
        check_numbers((*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        budget().step()
        yield value


def _joined(values: Sequence[Any]) -> str:
    texts = [str(value) for value in values]
    check_size(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _written(context: Context, value: Any) -> str:
    text = str(value)
    budget().write(text)
    return text


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        check_numbers((*args, *kwargs.values()))
        return function(value, *args, **kwargs)

    return bounded


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    check_format(str(value))
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
        check_numbers([indent], 1000)
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
        "tojson": _to_json, "format": _format, COUNTED: _counted, JOINED: _joined,
        **{name: _bounded(environment.filters[name]) for name in ("center", "indent")},
    }  # fmt: skip
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: budget().now.strftime(form),
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


_ENVIRONMENT = _environment()
