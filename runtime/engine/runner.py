"""Runs an engine's graph with every buffer bound in place.

Index inputs, logits and caches live in buffers that this class owns; a forward pass writes the
indices, runs, and returns a view of the logits. A cache's input and output are bound to one
pointer, so its rows are updated where they are and nothing is copied. Buffers are bound again
only when their shape changes, which for the caches is once a block of tokens.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.folder import Bundle
from trtcoder.cores import available_cores
from trtcoder.errors import EngineError
from trtcoder.runtime.engine.arena import Arena
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.mapped_pages import enter_pages
from trtcoder.runtime.engine.session import INDEX_INPUTS, LOGITS, open_session

# Bound on the attention scores of one layer and pass, float32 [heads, tokens, rows]: a long
# prompt takes shorter chunks instead of more memory.
SCORE_BYTES = 256 << 20
_UNBOUNDED = 1 << 62
_CPU = "CPUExecutionProvider"


class ModelRunner:
    """A loaded graph and the memory of its latent cache. Not for use by several threads at once.

    Attributes:
        manifest: the engine's.
        block_size: cache rows of a block.
        num_blocks: blocks of the cache.
        max_positions: length of the model's context in tokens.
        vocab_size: logits of a token.
        score_cells: most tokens x bound rows of a step that keep attention in `SCORE_BYTES`; no
            bound where our kernels attend.
        threads: of the matrix products.
        choice: whether our kernels or ONNX Runtime's own run it.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, cache_tokens: int | None = None
    ) -> None:
        """Load the graph and reserve the cache.

        Args:
            bundle: the engine folder.
            threads: threads of the matrix products; by default the cores that may be used.
            cache_tokens: tokens that the cache can hold, for all sequences together; by default
                the model's context. Memory is reserved, and only taken by the rows in use.

        Raises:
            DependencyError: onnxruntime is not installed.
            EngineError: this machine or this onnxruntime cannot run the engine.
        """
        manifest = bundle.manifest
        if manifest.requires.provider != _CPU:
            raise EngineError(
                f"{bundle.folder}: built for {manifest.requires.provider}; trtcoder runs "
                f"engines built for {_CPU}"
            )
        if threads is not None and threads < 1:
            raise EngineError(f"threads is {threads}; it must be at least 1")
        if cache_tokens is not None and cache_tokens < 1:
            raise EngineError(f"cache tokens is {cache_tokens}; it must be at least 1")
        self.manifest = manifest
        self.max_positions = manifest.model.max_positions
        self.vocab_size = manifest.model.vocab_size
        self.block_size = manifest.graph.cache_block
        self.num_blocks = -(-(cache_tokens or self.max_positions) // self.block_size)
        self.threads = threads or available_cores()
        self._session, self.choice = open_session(bundle, self.threads)
        if self.choice.whole:  # others hold copies of the weights
            enter_pages(map(bundle.path, manifest.files), self._session)
        heads = manifest.model.config.get("num_attention_heads")
        self.score_cells = SCORE_BYTES // (4 * (heads if isinstance(heads, int) else 1))
        self._attends = self.choice.library is not None
        if self._attends:
            self.score_cells = _UNBOUNDED  # our attention keeps no scores
        self._binding = self._session.io_binding()
        self._arenas = [
            Arena.reserve(cache, self.num_blocks * self.block_size)
            for cache in manifest.graph.caches
        ]
        self._indices = {name: np.empty(1, np.int64) for name in INDEX_INPUTS}
        self._views: dict[str, NDArray[np.int64]] = {}  # of the shapes that are bound
        self._logits = np.empty((1, self.vocab_size), np.float32)
        self._bound: dict[str, tuple[int, ...]] = {}
        self._bound_rows = 0

    def forward(self, batch: PackedBatch) -> NDArray[np.float32]:
        """Run one batch and write its tokens into the cache.

        Returns the logits, float32 [samples, vocab]: a view that the next call overwrites.

        Raises:
            EngineError: ONNX Runtime fails, for example for lack of memory.
        """
        for name in INDEX_INPUTS:
            values = getattr(batch, name)
            view = self._views.get(name)
            if view is None or view.shape != values.shape:
                view = self._bind_index(name, values.shape)
            view[...] = values
        logits = self._bind_logits(len(batch.sample_rows))
        # Our attention reads a sequence's own blocks, others every row that is bound.
        blocks = self.num_blocks if self._attends else int(batch.block_table.max()) + 1
        self._bind_caches(blocks * self.block_size)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime's classes share no public base
            raise EngineError(
                f"ONNX Runtime failed on {len(batch.input_ids)} tokens: {error}"
            ) from error
        return logits

    def copy_rows(self, source: int, target: int, rows: int) -> None:
        """Copy the first ``rows`` rows of a block to another block, in every cache."""
        for arena in self._arenas:
            arena.copy(source * self.block_size, target * self.block_size, rows)

    def read_block(self, block: int) -> bytes:
        """Return the rows of a block, of every cache one after another."""
        rows = slice(block * self.block_size, (block + 1) * self.block_size)
        return b"".join(arena.array[rows].tobytes() for arena in self._arenas)

    def write_block(self, block: int, data: bytes) -> bool:
        """Set the rows of a block to what `read_block` returned; False where sizes differ."""
        rows = slice(block * self.block_size, (block + 1) * self.block_size)
        if len(data) != sum(arena.array[rows].nbytes for arena in self._arenas):
            return False
        start = 0
        for arena in self._arenas:
            target = arena.array[rows]
            found = np.frombuffer(data, target.dtype, target.size, start)
            target[:] = found.reshape(target.shape)
            start += target.nbytes
        return True

    def clear_rows(self, rows: NDArray[np.int64]) -> None:
        """Set cache rows to zero, in every cache: what is not finite spreads from there."""
        for arena in self._arenas:
            arena.clear(rows)

    def _bind_index(self, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        size = math.prod(shape)
        if size > self._indices[name].size:
            self._indices[name] = np.empty(2 * size, np.int64)
        buffer = self._indices[name]
        self._binding.bind_input(name, "cpu", 0, np.int64, shape, buffer.ctypes.data)
        self._views[name] = buffer[:size].reshape(shape)
        return self._views[name]

    def _bind_logits(self, samples: int) -> NDArray[np.float32]:
        if samples > len(self._logits):
            self._logits = np.empty((2 * samples, self.vocab_size), np.float32)
            self._bound.pop(LOGITS, None)
        shape = (samples, self.vocab_size)
        if self._bound.get(LOGITS) != shape:
            pointer = self._logits.ctypes.data
            self._binding.bind_output(LOGITS, "cpu", 0, np.float32, shape, pointer)
            self._bound[LOGITS] = shape
        return self._logits[:samples]

    def _bind_caches(self, rows: int) -> None:
        if rows == self._bound_rows:
            return
        for arena in self._arenas:
            shape = (rows, arena.info.width)
            name, pointer = arena.info.name, arena.pointer
            self._binding.bind_input(name, "cpu", 0, arena.array.dtype, shape, pointer)
            self._binding.bind_output(f"{name}.out", "cpu", 0, arena.array.dtype, shape, pointer)
        self._bound_rows = rows
