"""Buffers in a GPU's memory, bound to a session in place.

The caches stay there. A step's inputs, some kilobytes, are copied when they are bound, and the
logits come back when it has run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.manifest import Manifest
from trtcoder.errors import EngineError
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.cuda_memory import CudaMemory, DeviceArena
from trtcoder.runtime.engine.session import INDEX_INPUTS, LOGITS

if TYPE_CHECKING:
    import onnxruntime


class CudaBinding:
    """The inputs, logits and caches of a session on CUDA.

    Attributes:
        io: what the session runs with.
        arenas: the memory of the caches, in the manifest's order.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, manifest: Manifest, rows: int
    ) -> None:
        """Take the memory of ``rows`` rows of every cache.

        Raises:
            EngineError: the GPU has not so much memory.
        """
        self.io = session.io_binding()
        memory, block = CudaMemory(), manifest.graph.cache_block
        self.arenas = [
            DeviceArena.reserve(cache, rows // block, block, memory)
            for cache in manifest.graph.caches
        ]
        for arena in self.arenas:
            self.io.bind_ortvalue_input(arena.info.name, arena.value)
            self.io.bind_ortvalue_output(f"{arena.info.name}.out", arena.value)
        self._vocab_size = manifest.model.vocab_size
        self._logits = np.empty((1, self._vocab_size), np.float32)

    def bind(self, batch: PackedBatch, rows: int) -> NDArray[np.float32]:
        """Copy a batch's inputs; the caches are bound whole, whatever ``rows`` says.

        Returns where the logits will be, ``[samples, vocab]``.
        """
        for name in INDEX_INPUTS:
            self.io.bind_cpu_input(name, getattr(batch, name))
        for name, values in paged_inputs(batch).items():
            self.io.bind_cpu_input(name, values)
        samples = len(batch.sample_rows)
        if samples > len(self._logits):
            self._logits = np.empty((2 * samples, self._vocab_size), np.float32)
        shape, pointer = (samples, self._vocab_size), self._logits.ctypes.data
        self.io.bind_output(LOGITS, "cpu", 0, np.float32, shape, pointer)
        return self._logits[:samples]


def paged_inputs(batch: PackedBatch) -> dict[str, NDArray[np.int32]]:
    """Return what `PagedAttention` takes beside the other inputs, all int32.

    That is the first packed token of each sequence and the end, ``[sequences + 1]``; the tokens
    before it, ``[sequences]``; and bounds: the most tokens of a sequence here, the most in all, and
    0, ``[3]``.

    Raises:
        EngineError: a sequence's tokens do not stand together and in order.
    """
    counts = np.bincount(batch.sequences, minlength=len(batch.block_table))
    starts = np.concatenate([[0], np.cumsum(counts)])
    if (counts == 0).any() or (np.diff(batch.sequences) < 0).any():
        raise EngineError(
            "on CUDA the tokens of each sequence stand together, in the order of the table"
        )
    past = batch.positions[starts[:-1]]
    bounds = [counts.max(), (past + counts).max(), 0]
    found = {"query_starts": starts, "past_lengths": past, "attention_metadata": np.array(bounds)}
    return {name: values.astype(np.int32) for name, values in found.items()}
