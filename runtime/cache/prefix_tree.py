"""A tree of token blocks: which cache block holds the rows of which prefix.

A path from a root spells a prefix, one block of tokens a node; a last node may hold fewer. The
rows of a token depend only on the tokens before it and itself, so a block serves every sequence
that begins with its path. Roots are by salt: what differs in it shares nothing.

The children of a node are sorted. In sorted order the child with the longest common prefix is a
neighbour of the place where the searched tokens would stand.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Node:
    """One block of a prefix; the root's tokens are empty and its block is -1."""

    tokens: Tokens
    block: int
    parent: Node | None
    salt: str = ""
    children: list[Node] = field(default_factory=list)

    def child(self, tokens: Tokens) -> Node | None:
        """Return the child that holds exactly these tokens."""
        index = bisect.bisect_left(self.children, tokens, key=_tokens_of)
        if index < len(self.children) and self.children[index].tokens == tokens:
            return self.children[index]
        return None

    def closest(self, tokens: Tokens) -> tuple[Node, int] | None:
        """Return the child that begins with most of ``tokens``, and how many of them."""
        index = bisect.bisect_left(self.children, tokens, key=_tokens_of)
        around = self.children[max(0, index - 1) : index + 1]
        found = [(_common(child.tokens, tokens), child) for child in around]
        length, best = max(found, key=lambda each: each[0], default=(0, None))
        return (best, length) if best is not None and length else None


class PrefixTree:
    """All prefixes whose rows are in the cache.

    Nodes that no sequence holds are kept in the order of their last use, each before its parent,
    so that the first of them never has children.
    """

    def __init__(self) -> None:
        self._roots: dict[str, Node] = {}
        self._nodes: dict[int, Node] = {}
        self._idle: OrderedDict[int, Node] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def num_idle(self) -> int:
        """Nodes that no sequence holds."""
        return len(self._idle)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def root(self, salt: str) -> Node:
        """Return the root of a salt."""
        return self._roots.get(salt) or Node((), -1, None, salt)

    def node_of(self, block: int) -> Node | None:
        """Return the node whose rows a block holds."""
        return self._nodes.get(block)

    def find(self, salt: str, tokens: Sequence[int], block_size: int) -> list[Node]:
        """Return the nodes of whole blocks that ``tokens`` begin with."""
        node, found = self.root(salt), []
        for start in range(0, len(tokens) - block_size + 1, block_size):
            child = node.child(tuple(tokens[start : start + block_size]))
            if child is None:
                break
            found.append(child)
            node = child
        return found

    def add(self, parent: Node, tokens: Tokens, block: int) -> Node:
        """Add a child that a sequence holds."""
        node = Node(tokens, block, parent, parent.salt)
        bisect.insort(parent.children, node, key=_tokens_of)
        self._nodes[block] = node
        if parent.parent is None:
            self._roots[parent.salt] = parent
        return node

    def remove(self, node: Node) -> None:
        """Take a node without children out of the tree."""
        parent = node.parent
        if node.children or parent is None:
            raise ValueError("only a node without children can be removed")
        index = bisect.bisect_left(parent.children, node.tokens, key=_tokens_of)
        del parent.children[index]
        del self._nodes[node.block]
        self._idle.pop(node.block, None)
        if parent.parent is None and not parent.children:
            self._roots.pop(parent.salt, None)

    def hold(self, node: Node) -> None:
        """Note that a sequence holds a node, and so all above it."""
        self._idle.pop(node.block, None)

    def let_go(self, node: Node) -> None:
        """Note that no sequence holds a node any more; those below it come before it."""
        self._idle[node.block] = node
        self._idle.move_to_end(node.block)

    def is_idle(self, node: Node) -> bool:
        """Return whether no sequence holds a node."""
        return node.block in self._idle

    def oldest_idle(self) -> Node:
        """Return the node that was not used for longest; it has no children."""
        return next(iter(self._idle.values()))


def _tokens_of(node: Node) -> Tokens:
    return node.tokens


def _common(first: Tokens, second: Tokens) -> int:
    length = 0
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            break
        length += 1
    return length
