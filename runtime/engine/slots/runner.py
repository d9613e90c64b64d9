"""Runs an engine of compiled plans behind the same face as a graph: a slot is a block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import EngineError
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.plugins.choice import Choice
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.slots.device import PlanDevice, StepInputs
from trtcoder.runtime.engine.slots.steps import Step, steps_of
from trtcoder.tensorrt_rtx.step import Rotary, read_embeddings

_UNBOUNDED = 1 << 62
NAME = "TensorRT-RTX"


class SlotRunner:
    """Plans and their slots (see `trtcoder.runtime.engine.model.Model`).

    A sequence has one block, its slot, which holds all of its context; so sequences share no
    prefixes but by copies.
    """

    def __init__(self, bundle: Bundle, device: PlanDevice) -> None:
        """Take an engine's folder, and the device that has loaded its plans.

        Raises:
            EngineError: it is no engine of plans.
        """
        manifest, parts = bundle.manifest, bundle.manifest.compiled
        if parts is None:
            raise EngineError(f"{bundle.folder}: has no compiled plans")
        config = DeepseekV2Config.from_dict(manifest.model.config, str(bundle.folder))
        self.manifest = manifest
        self.block_size = parts.context
        self.num_blocks = parts.slots
        self.max_positions = min(manifest.model.max_positions, parts.context)
        self.vocab_size = manifest.model.vocab_size
        # Chunks are cut to what the plans take.
        self.score_cells = _UNBOUNDED
        self.choice = Choice(parts.plans[0].file, None, provider=NAME)
        self._device, self._chunk = device, parts.chunk
        self._embeddings = bundle.path(parts.embedding)
        self._hidden, self._rotary = config.hidden_size, Rotary.of(config)

    def forward(self, batch: PackedBatch) -> NDArray[np.float32]:
        """Run one batch and write its tokens into the cache; return logits ``[samples, vocab]``.

        Raises:
            EngineError: a plan fails.
        """
        given = read_embeddings(self._embeddings, batch.input_ids, self._hidden)
        cos, sin = self._rotary.angles(batch.positions)
        made = np.empty_like(given)
        for step in steps_of(batch, self.block_size, self._chunk):
            taken = step.rows >= 0
            inputs = StepInputs(
                hidden=_rows(given, step),
                places=step.places,
                window=np.arange(step.window, dtype=np.int64),
                cos=_rows(cos, step)[None],
                sin=_rows(sin, step)[None],
            )
            made[step.rows[taken]] = self._device.run_layers(inputs, step.slots)[taken]
        wanted = made[batch.sample_rows]
        logits = [
            self._device.run_head(wanted[start : start + self.num_blocks])
            for start in range(0, len(wanted), self.num_blocks)
        ]
        return np.concatenate(logits)

    def copy_rows(self, source: int, target: int, rows: int) -> None:
        """Copy the first ``rows`` rows of a slot to another one, in every cache."""
        self._device.copy(source, target, rows)

    def read_block(self, block: int) -> bytes:
        """Return the rows of a slot, of every cache one after another."""
        return self._device.read(block)

    def write_block(self, block: int, data: bytes) -> bool:
        """Set the rows of a slot to what `read_block` returned; False where sizes differ."""
        return self._device.write(block, data)

    def clear_rows(self, rows: NDArray[np.int64]) -> None:
        """Set cache rows to zero, in every cache: what is not finite spreads from there."""
        for row in rows.tolist():
            self._device.clear(*divmod(row, self.block_size))


def _rows(values: NDArray[np.float32], step: Step) -> NDArray[np.float32]:
    """Return a step's rows of ``values``; zeros for slots that rest."""
    found = values[np.maximum(step.rows, 0)]
    found[step.rows < 0] = 0
    return found
