"""Buffers in the CPU's memory, bound to a session in place.

A cache's input and output are bound to one pointer, so its rows are updated where they are and
nothing is copied. Buffers are bound again only when their shape changes, which for the caches is
once a block of tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.manifest import Manifest
from trtcoder.runtime.engine.arena import Arena
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.session import INDEX_INPUTS, LOGITS

if TYPE_CHECKING:
    import onnxruntime


class HostBinding:
    """The inputs, logits and caches of a session.

    Attributes:
        io: what the session runs with.
        arenas: the memory of the caches, in the manifest's order.
        bound_rows: rows of each that are bound.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, manifest: Manifest, rows: int
    ) -> None:
        """Reserve ``rows`` rows of every cache.

        Raises:
            EngineError: there is not so much address space.
        """
        self.io = session.io_binding()
        self.arenas = [Arena.reserve(cache, rows) for cache in manifest.graph.caches]
        self._vocab_size = manifest.model.vocab_size
        self._indices = {name: np.empty(1, np.int64) for name in INDEX_INPUTS}
        self._views: dict[str, NDArray[np.int64]] = {}  # of the shapes that are bound
        self._logits = np.empty((1, self._vocab_size), np.float32)
        self._bound: dict[str, tuple[int, ...]] = {}
        self.bound_rows = 0

    def bind(self, batch: PackedBatch, rows: int) -> NDArray[np.float32]:
        """Write a batch's inputs, and bind the first ``rows`` rows of every cache.

        Returns where the logits will be, ``[samples, vocab]``.
        """
        for name in INDEX_INPUTS:
            values = getattr(batch, name)
            view = self._views.get(name)
            if view is None or view.shape != values.shape:
                view = self._bind_index(name, values.shape)
            view[...] = values
        logits = self._bind_logits(len(batch.sample_rows))
        self._bind_caches(rows)
        return logits

    def _bind_index(self, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        size = math.prod(shape)
        if size > self._indices[name].size:
            self._indices[name] = np.empty(2 * size, np.int64)
        buffer = self._indices[name]
        self.io.bind_input(name, "cpu", 0, np.int64, shape, buffer.ctypes.data)
        self._views[name] = buffer[:size].reshape(shape)
        return self._views[name]

    def _bind_logits(self, samples: int) -> NDArray[np.float32]:
        if samples > len(self._logits):
            self._logits = np.empty((2 * samples, self._vocab_size), np.float32)
            self._bound.pop(LOGITS, None)
        shape = (samples, self._vocab_size)
        if self._bound.get(LOGITS) != shape:
            pointer = self._logits.ctypes.data
            self.io.bind_output(LOGITS, "cpu", 0, np.float32, shape, pointer)
            self._bound[LOGITS] = shape
        return self._logits[:samples]

    def _bind_caches(self, rows: int) -> None:
        if rows == self.bound_rows:
            return
        for arena in self.arenas:
            shape = (rows, arena.info.width)
            name, pointer = arena.info.name, arena.pointer
            self.io.bind_input(name, "cpu", 0, arena.array.dtype, shape, pointer)
            self.io.bind_output(f"{name}.out", "cpu", 0, arena.array.dtype, shape, pointer)
        self.bound_rows = rows
