"""An engine's speed at each row of `benchmarks.cpu`, in this process.

    python -m benchmarks.cpu_ours ENGINE ROW…

Contexts are rows of random values in the cache: what they hold changes no time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_work import DECODE_STEPS, WARM, Work, tokens_per_second
from benchmarks.record import peak_rss_mb
from trtcoder.bundle.folder import Bundle
from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.runner import ModelRunner

CHUNK = 512


def rows_of(work: Work) -> int:
    """Return the cache rows that a sequence of a row of the table needs."""
    return work.tokens + (DECODE_STEPS + WARM if work.sequences else 0)


class Engine:
    """A loaded engine with room for ``rows`` cache rows in all."""

    def __init__(self, folder: Path, rows: int) -> None:
        """Load it."""
        started = time.perf_counter()
        bundle = Bundle.load(folder, verify_hashes=False)
        self.block = bundle.manifest.graph.cache_block
        self.runner = ModelRunner(bundle, cache_tokens=rows)
        self.load_seconds = time.perf_counter() - started
        top = self.runner.vocab_size - 8
        self.ids: list[int] = np.random.default_rng(0).integers(0, top, 1 << 14).tolist()
        self.blocks = np.arange(self.runner.num_blocks, dtype=np.int64)

    def step(self, work: Work, number: int, rows: int) -> None:
        """Run a step of a row of the table; each sequence has ``rows`` cache rows of its own."""
        if not work.sequences:
            for start in range(0, work.tokens, CHUNK):
                part = self.ids[start : min(start + CHUNK, work.tokens)]
                used = self.blocks[: -(-(start + len(part)) // self.block)]
                self._forward([Span(part, start, used, 1)])
            return
        own = -(-rows // self.block)
        position = work.tokens + number
        taken = position // self.block + 1
        self._forward(
            [
                Span([self.ids[number * work.sequences + i]], position,
                     self.blocks[i * own : i * own + taken], 1)
                for i in range(work.sequences)
            ]
        )  # fmt: skip

    def _forward(self, spans: list[Span]) -> None:
        self.runner.forward(PackedBatch.pack(spans, self.block))


def measure(folder: Path, works: list[Work]) -> dict[str, Any]:
    """Return the speeds, the time to load, and the largest resident memory."""
    room = max(max(work.sequences, 1) * (rows_of(work) + 16) for work in works)
    engine = Engine(folder, room)
    speeds = {
        work.name: tokens_per_second(
            work,
            lambda number, work=work: engine.step(work, number, rows_of(work)),  # type: ignore[misc]
        )
        for work in works
    }
    return {
        "runs_on": str(engine.runner.choice), "load_seconds": engine.load_seconds,
        "peak_rss_mb": peak_rss_mb(), "speeds": speeds,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), [Work.read(name) for name in sys.argv[2:]])))
