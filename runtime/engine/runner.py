"""Runs an engine's graph with every buffer bound in place.

Index inputs, logits and caches live in buffers that a binding owns, in the CPU's memory or in a
GPU's; a forward pass writes the indices, runs, and returns a view of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.onnx import CPU, CUDA
from trtcoder.cores import available_cores
from trtcoder.errors import EngineError
from trtcoder.runtime.engine.arena import Arena
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.cuda_binding import CudaBinding
from trtcoder.runtime.engine.cuda_memory import DeviceArena
from trtcoder.runtime.engine.host_binding import HostBinding
from trtcoder.runtime.engine.mapped_pages import enter_pages
from trtcoder.runtime.engine.session import open_session

# Bound on the attention scores of one layer and pass, float32 [heads, tokens, rows]: a long
# prompt takes shorter chunks instead of more memory.
SCORE_BYTES = 256 << 20
_UNBOUNDED = 1 << 62
_BINDINGS: dict[str, type[HostBinding] | type[CudaBinding]] = {CPU: HostBinding, CUDA: CudaBinding}


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
        if manifest.requires.provider not in _BINDINGS:
            raise EngineError(
                f"{bundle.folder}: built for {manifest.requires.provider}; trtcoder runs "
                f"engines built for {', '.join(_BINDINGS)}"
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
        rows = self.num_blocks * self.block_size
        binding = _BINDINGS[manifest.requires.provider]
        self._binding = binding(self._session, manifest, rows)

    def forward(self, batch: PackedBatch) -> NDArray[np.float32]:
        """Run one batch and write its tokens into the cache.

        Returns the logits, float32 [samples, vocab]: a view that the next call overwrites.

        Raises:
            EngineError: ONNX Runtime fails, for example for lack of memory.
        """
        # Our attention reads a sequence's own blocks, others every row that is bound.
        blocks = self.num_blocks if self._attends else int(batch.block_table.max()) + 1
        logits = self._binding.bind(batch, blocks * self.block_size)
        try:
            self._session.run_with_iobinding(self._binding.io)
        except Exception as error:  # onnxruntime's classes share no public base
            raise EngineError(
                f"ONNX Runtime failed on {len(batch.input_ids)} tokens: {error}"
            ) from error
        return logits

    def copy_rows(self, source: int, target: int, rows: int) -> None:
        """Copy the first ``rows`` rows of a block to another block, in every cache."""
        for arena in self._binding.arenas:
            arena.copy(source * self.block_size, target * self.block_size, rows)

    def read_block(self, block: int) -> bytes:
        """Return the rows of a block, of every cache one after another."""
        start = block * self.block_size
        return b"".join(arena.read(start, self.block_size) for arena in self._binding.arenas)

    def write_block(self, block: int, data: bytes) -> bool:
        """Set the rows of a block to what `read_block` returned; False where sizes differ."""
        arenas: Sequence[Arena | DeviceArena] = self._binding.arenas
        sizes = [self.block_size * arena.info.row_nbytes for arena in arenas]
        if len(data) != sum(sizes):
            return False
        start = 0
        for arena, size in zip(arenas, sizes, strict=True):
            arena.write(block * self.block_size, data[start : start + size])
            start += size
        return True

    def clear_rows(self, rows: NDArray[np.int64]) -> None:
        """Set cache rows to zero, in every cache: what is not finite spreads from there."""
        for arena in self._binding.arenas:
            arena.clear(rows)
