"""The cache as the scheduler sees it: blocks for sequences, shared where their tokens begin alike.

A sequence holds a block once for each entry of its table; the tree holds each of its blocks once
more. Whoever holds a node's block holds those of all nodes above it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trtcoder.runtime.cache.block_pool import BlockPool
from trtcoder.runtime.cache.block_table import BlockTable
from trtcoder.runtime.cache.prefix_tree import Node, PrefixTree


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the cache knows of a sequence's beginning.

    Attributes:
        nodes: whole blocks that can be shared.
        tail: a node whose first ``tail_tokens`` rows come next, to be copied; None if none do.
    """

    nodes: tuple[Node, ...]
    tail: Node | None
    tail_tokens: int

    def num_tokens(self, block_size: int) -> int:
        """Return how many tokens need not be computed."""
        return len(self.nodes) * block_size + self.tail_tokens


class LatentCache:
    """Blocks and prefixes of one engine's cache."""

    def __init__(self, num_blocks: int, block_size: int, *, shares_prefixes: bool = True) -> None:
        if block_size < 1:
            raise ValueError(f"blocks of {block_size} rows")
        self.block_size = block_size
        self.shares_prefixes = shares_prefixes
        self._pool = BlockPool(num_blocks)
        self._tree = PrefixTree()

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return self._pool.num_blocks

    @property
    def num_available(self) -> int:
        """Blocks that can be had: free ones, and those whose prefix nobody uses."""
        return self._pool.num_free + self._tree.num_idle

    @property
    def num_rows(self) -> int:
        """Rows of the whole cache: the most tokens that it can hold."""
        return self._pool.num_blocks * self.block_size

    @property
    def num_cached_blocks(self) -> int:
        """Blocks whose rows can be found by their tokens."""
        return len(self._tree)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold so many tokens."""
        return -(-num_tokens // self.block_size)

    def find(self, salt: str, tokens: Sequence[int]) -> Prefix:
        """Return what is known of ``tokens``; nothing is held yet."""
        if not self.shares_prefixes:
            return Prefix((), None, 0)
        nodes = self._tree.find(salt, tokens, self.block_size)
        last = nodes[-1] if nodes else self._tree.root(salt)
        start = len(nodes) * self.block_size
        closest = last.closest(tuple(tokens[start : start + self.block_size]))
        return Prefix(tuple(nodes), *(closest or (None, 0)))

    def num_needed(self, prefix: Prefix, num_tokens: int) -> int:
        """Return how many available blocks ``num_tokens`` take after sharing ``prefix``."""
        shared = prefix.nodes if prefix.tail is None else (*prefix.nodes, prefix.tail)
        idle = sum(map(self._tree.is_idle, shared))
        return self.blocks_for(num_tokens) - len(prefix.nodes) + idle

    def share(self, prefix: Prefix, table: BlockTable) -> None:
        """Hold the whole blocks of a prefix for an empty table."""
        for node in prefix.nodes:
            self._hold(node.block)
            table.append(node.block)

    def pin(self, node: Node) -> int:
        """Hold a node's block until `release`, so that its rows can be copied."""
        self._hold(node.block)
        return node.block

    def allocate(self) -> int:
        """Return a block to write to, held once.

        Raises:
            IndexError: no block is available.
        """
        if not self._pool.num_free and self._tree.num_idle:
            self._forget(self._tree.oldest_idle())
        return self._pool.allocate()

    def release(self, block: int) -> None:
        """Give a block back."""
        self._pool.release(block)
        node = self._tree.node_of(block)
        if node is not None and self._pool.references(block) == 1:
            self._tree.let_go(node)

    def release_table(self, table: BlockTable) -> None:
        """Give back all blocks of a sequence, the last first: so prefixes are forgotten last."""
        for block in reversed(table.blocks):
            self.release(block)
        table.clear()

    def publish(self, salt: str, tokens: Sequence[int], table: BlockTable, start: int) -> int:
        """Let others find the rows of ``tokens``, which are known to be good.

        Where the tree has the same tokens already, the entry of ``table`` becomes its block, and
        the sequence's own goes back. Returns how many blocks are published.

        Args:
            salt: of the sequence.
            tokens: those whose rows are in the cache.
            table: the sequence's.
            start: blocks that were published before.
        """
        if not self.shares_prefixes:
            return 0
        whole = len(tokens) // self.block_size
        if whole <= start:
            return start
        node = self._tree.root(salt) if start == 0 else self._known(table.blocks[start - 1])
        for index in range(start, whole):
            first = index * self.block_size
            mine = tuple(tokens[first : first + self.block_size])
            node = self._publish(node, mine, table, index)
        return whole

    def publish_tail(self, salt: str, tokens: Sequence[int], table: BlockTable) -> None:
        """Let others copy the rows behind the last whole block, when a sequence ends."""
        whole = len(tokens) // self.block_size
        tail = tuple(tokens[whole * self.block_size :])
        if not tail or not self.shares_prefixes:
            return
        parent = self._tree.root(salt) if whole == 0 else self._known(table.blocks[whole - 1])
        closest = parent.closest(tail)
        if closest is None or closest[1] < len(tail):
            self._publish(parent, tail, table, whole)

    def clear(self) -> None:
        """Forget every prefix that no sequence uses."""
        while self._tree.num_idle:
            self._forget(self._tree.oldest_idle())

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise RuntimeError unless references, free list and tree add up to ``tables``."""
        tables = list(tables)
        held = Counter(block for table in tables for block in table)
        for node in self._tree:
            held[node.block] += 1
            if (held[node.block] == 1) != self._tree.is_idle(node):
                raise RuntimeError(f"block {node.block} is idle and not known as such, or used")
        self._pool.check(dict(held))

    def _publish(
        self, parent: Node, tokens: tuple[int, ...], table: BlockTable, index: int
    ) -> Node:
        block = table.blocks[index]
        known = parent.child(tokens)
        if known is not None:
            if known.block != block:
                self._hold(known.block)
                self.release(block)
                table.replace(index, known.block)
            return known
        # What begins these tokens and ends earlier is of no more use.
        closest = parent.closest(tokens)
        if closest is not None and len(closest[0].tokens) == closest[1] < len(tokens):
            shorter = closest[0]
            if self._tree.is_idle(shorter):
                self._forget(shorter)
        self._pool.retain(block)
        return self._tree.add(parent, tokens, block)

    def _known(self, block: int) -> Node:
        node = self._tree.node_of(block)
        if node is None:
            raise RuntimeError(f"block {block} was not published")
        return node

    def _hold(self, block: int) -> None:
        self._pool.retain(block)
        node = self._tree.node_of(block)
        if node is not None:
            self._tree.hold(node)

    def _forget(self, node: Node) -> None:
        self._tree.remove(node)
        self._pool.release(node.block)
