"""Rewrites a chat template so that what it costs is counted, and its control tokens are marks."""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from trtcoder.prompting.marks import Marks

# Filters that `template_sandbox` provides: each turn of a loop, and `~`, pass one.
COUNTED, JOINED = "_counted", "_joined"

# Filters and methods whose arguments are searched for.
_SEARCHING = {
    "count", "endswith", "find", "index", "lstrip", "partition", "reject", "rejectattr",
    "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "select",
    "selectattr", "split", "startswith", "strip", "trim",
}  # fmt: skip


def rewrite(tree: nodes.Template, marks: Marks | None) -> nodes.Template:
    """Return a template that sends what costs through `COUNTED` and `JOINED`, and writes marks."""
    found: nodes.Template = _Rewriter(marks).visit(tree)
    return found


class _Rewriter(NodeTransformer):
    """Text that is only compared with other text, as what a message is split at, gets no marks."""

    def __init__(self, marks: Marks | None) -> None:
        self._marks = marks

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        # As a constant it is counted like all that is written.
        return nodes.Const(self._marked(node.data), lineno=node.lineno)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if isinstance(node.value, str):
            node.value = self._marked(node.value)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(node.iter, COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), JOINED)

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
