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


def measure(folder: Path, works: list[Work]) -> dict[str, Any]:
    """Return the speeds, the time to load, and the largest resident memory."""
    started = time.perf_counter()
    bundle = Bundle.load(folder, verify_hashes=False)
    block = bundle.manifest.graph.cache_block
    room = max(max(work.sequences, 1) * (rows_of(work) + block) for work in works)
    runner = ModelRunner(bundle, cache_tokens=room)
    loaded = time.perf_counter() - started
    ids = np.random.default_rng(0).integers(0, runner.vocab_size - 8, 1 << 14).tolist()
    blocks = np.arange(runner.num_blocks, dtype=np.int64)

    def forward(spans: list[Span]) -> None:
        runner.forward(PackedBatch.pack(spans, block))

    def run(work: Work, number: int) -> None:
        if not work.sequences:
            for start in range(0, work.tokens, CHUNK):
                part = ids[start : min(start + CHUNK, work.tokens)]
                used = blocks[: -(-(start + len(part)) // block)]
                forward([Span(part, start, used, 1)])
            return
        own = -(-rows_of(work) // block)
        position = work.tokens + number
        taken = position // block + 1
        forward(
            [
                Span([ids[number * work.sequences + i]], position,
                     blocks[i * own : i * own + taken], 1)
                for i in range(work.sequences)
            ]
        )  # fmt: skip

    speeds = {
        work.name: tokens_per_second(work, lambda number, work=work: run(work, number))  # type: ignore[misc]
        for work in works
    }
    return {
        "runs_on": str(runner.choice), "load_seconds": loaded, "peak_rss_mb": peak_rss_mb(),
        "speeds": speeds,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), [Work.read(name) for name in sys.argv[2:]])))
