"""Reduces a chat template to the text around each message, where it is no more than that.

Then an engine runs no program of its checkpoint. Two things are shown before: the template never
looks at what a message says (`examines_content`, from its syntax tree), so that one content stands
for all; and for all conversations of up to four messages, and a longer one, the parts give what the
template gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from jinja2 import TemplateError, nodes

from trtcoder.bundle.manifest import ChatFormat
from trtcoder.errors import BuildError, RequestError
from trtcoder.prompting.chat import ROLES, Chat
from trtcoder.prompting.chat_template import ChatTemplate
from trtcoder.prompting.marks import Marks
from trtcoder.prompting.template_sandbox import parse_template

_LENGTH = 4
_LONG = ("system", *("user", "assistant") * 5, "user")
_NO_MARKS = Marks("\ufdd0", ())


def derive_chat_format(template: ChatTemplate) -> ChatFormat:
    """Return the parts of ``template``.

    Raises:
        BuildError: it is more than text around messages; the message says where.
    """
    try:
        if examines_content(parse_template(template.text)):
            raise BuildError("it looks at what messages say, or counts them")
        found = _parts(template)
        for roles in conversations(_LENGTH, _LONG):
            _compare(template, found, roles)
    except (RequestError, TemplateError) as error:
        raise BuildError(str(error)) from error
    return found


def conversations(length: int, *more: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the roles of every conversation of 1 to ``length`` messages, and of ``more``."""
    for count in range(1, length + 1):
        yield from itertools.product(ROLES, repeat=count)
    yield from more


def messages_of(roles: Sequence[str]) -> list[dict[str, str]]:
    """Return messages of these roles."""
    return [{"role": role, "content": _content(role, index)} for index, role in enumerate(roles)]


def _compare(template: ChatTemplate, parts: ChatFormat, roles: Sequence[str]) -> None:
    messages = messages_of(roles)
    for prompt in (False, True):
        expected = template.render(messages, prompt=prompt)
        if Chat(parts).render(messages, _NO_MARKS, prompt=prompt) != expected:
            raise BuildError(f"a conversation of {', '.join(roles)} is not the sum of its messages")


def _parts(template: ChatTemplate) -> ChatFormat:
    def render(*roles: str, prompt: bool = False) -> str:
        return template.render(messages_of(roles), prompt=prompt)

    bos = template.variables.get("bos_token", "")
    around = {}
    for role in ROLES:
        before, content, after = render(role).partition(_content(role, 0))
        if not content:
            raise BuildError(f"it leaves out the content of a message of role {role}")
        around[role] = before, after
    if not all(before.startswith(bos) for before, _ in around.values()):
        bos = ""
    user = render("user")
    prompted = render("user", prompt=True)
    if not prompted.startswith(user):
        raise BuildError("the generation prompt does not follow the last message")
    pairs = {role: (before.removeprefix(bos), after) for role, (before, after) in around.items()}
    return ChatFormat(bos=bos, **pairs, generation_prompt=prompted.removeprefix(user))


def _content(role: str, index: int) -> str:
    return f" \n«{role} {index}»\n "


# What a template of parts is made of; any other statement or expression is more.
_PLAIN = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.NSRef,
    nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.For, nodes.If, nodes.CondExpr, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.Assign, nodes.Add, nodes.Sub,
    nodes.Mod, nodes.Neg, nodes.Concat, nodes.Filter, nodes.Call, nodes.Keyword, nodes.List,
    nodes.Tuple, nodes.Scope,
)  # fmt: skip
# The same for every value of a type.
_TYPE_TESTS = {"defined", "undefined", "none", "string", "mapping"}
_FUNCTIONS = {"raise_exception", "namespace", "range"}


def examines_content(tree: nodes.Template) -> bool:
    """Whether a template may do more with the content of messages than write it, or counts them.

    Conservative: False is certain, True may be needless.
    """
    content = _Content(tree)
    return any(content.is_examined_by(node) for node in (tree, *tree.find_all(nodes.Node)))


class _Content:
    """Which names of a template may hold messages, or text of messages."""

    def __init__(self, tree: nodes.Template) -> None:
        assignments = [(a.target, a.node) for a in tree.find_all(nodes.Assign)]
        loops = [(loop.target, loop.iter) for loop in tree.find_all(nodes.For)]
        self._names, before = {"messages"}, 0
        while before != len(self._names):
            before = len(self._names)
            for target, value in assignments + loops:
                if self.is_in(value):
                    self._names |= _names_of(target)
        # Names that hold a list of messages and nothing else, from all names downwards.
        self._lists, before = set(self._names), -1
        for target, _ in loops:
            self._lists -= _names_of(target)
        while before != len(self._lists):
            before = len(self._lists)
            for target, value in assignments:
                if not self._is_list(value):
                    self._lists -= _names_of(target)

    def is_in(self, node: nodes.Node | None) -> bool:
        """Whether the value of an expression may hold what a message says."""
        if node is None or self._is_role(node):
            return False
        if isinstance(node, nodes.Name | nodes.NSRef):
            return node.name in self._names or node.name == "loop"
        if isinstance(node, nodes.Getattr) and _is_loop(node.node):
            return node.attr in ("previtem", "nextitem")
        if isinstance(node, nodes.Test) and node.name in _TYPE_TESTS:
            return False
        if isinstance(node, nodes.Filter) and self._is_length(node):
            return False
        if isinstance(node, nodes.CondExpr):  # its test is judged by itself
            return self.is_in(node.expr1) or self.is_in(node.expr2)
        return any(self.is_in(child) for child in node.iter_child_nodes())

    def is_examined_by(self, node: nodes.Node) -> bool:
        """Whether this node, apart from those in it, does more than pass content on."""
        if not isinstance(node, _PLAIN) or _names_role(node):
            return True
        if isinstance(node, nodes.Const):
            # Larger ones may count more messages than are tried.
            return isinstance(node.value, int | float) and abs(node.value) > 2
        if isinstance(node, nodes.If | nodes.CondExpr):
            return self.is_in(node.test)
        if isinstance(node, nodes.For):
            return bool(node.recursive or node.test) or (
                self.is_in(node.iter) and not self._is_list(node.iter)
            )
        if isinstance(node, nodes.Test):
            return node.name not in _TYPE_TESTS and any(map(self.is_in, node.iter_child_nodes()))
        if isinstance(node, nodes.Filter):
            return node.name == "random" or (not self._is_length(node) and self.is_in(node))
        if isinstance(node, nodes.Call):
            known = isinstance(node.node, nodes.Name) and node.node.name in _FUNCTIONS
            # A namespace may be made with a message in it.
            return not known or any(map(self.is_in, node.args))
        if isinstance(node, nodes.Getitem):
            return self.is_in(node.arg) or (
                self.is_in(node.node) and not self._is_list(node.node) and not _is_key(node.arg)
            )
        if isinstance(node, nodes.Compare | nodes.And | nodes.Or | nodes.Not):
            return any(map(self.is_in, node.iter_child_nodes()))
        if isinstance(node, nodes.Sub | nodes.Mod | nodes.Neg):
            return self.is_in(node)
        return False

    def _is_role(self, node: nodes.Node) -> bool:
        if isinstance(node, nodes.Getattr):
            return node.attr == "role"
        return isinstance(node, nodes.Getitem) and _is_key(node.arg, "role")

    def _is_list(self, node: nodes.Node) -> bool:
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return self._is_list(node.node)
        return isinstance(node, nodes.Name) and node.name in self._lists

    def _is_length(self, node: nodes.Filter) -> bool:
        if node.node is None or node.name not in ("length", "count"):
            return False
        return self._is_list(node.node)


def _names_role(node: nodes.Node) -> bool:
    """Whether something else than a message gets an attribute called role."""
    if isinstance(node, nodes.NSRef):
        return node.attr == "role"
    return isinstance(node, nodes.Keyword) and node.key == "role"


def _is_key(node: nodes.Node, *values: str) -> bool:
    if not isinstance(node, nodes.Const) or not isinstance(node.value, str):
        return False
    return not values or node.value in values


def _is_loop(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "loop"


def _names_of(target: nodes.Node) -> set[str]:
    if isinstance(target, nodes.Name | nodes.NSRef):
        return {target.name}
    return {name for child in target.iter_child_nodes() for name in _names_of(child)}
