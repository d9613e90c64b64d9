"""llama.cpp's speed at each row of `benchmarks.cpu`, in this process.

    python -m benchmarks.cpu_llama GGUF REPACK FLASH ISA ROW…

REPACK and FLASH are 0 or 1: whether weights are laid out anew for this CPU when the file is loaded,
and whether attention is the fused kernel. ISA is an instruction set that the build is limited to,
or "native".
"""

from __future__ import annotations

import json
import random
import struct
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.cpu_work import DECODE_STEPS, WARM, Work, tokens_per_second
from benchmarks.llama_cpp import cache, obtain, threads
from benchmarks.record import peak_rss_mb

# Tokens that are computed for a context; a longer one repeats their rows.
_SEED = 64


class Bench:
    """A loaded model, and a context for one row of the table at a time."""

    def __init__(self, model: Path, *, repack: bool, flash: bool, isa: str | None = None) -> None:
        """Load ``model``."""
        self.c = c = obtain(cache(), isa).bindings()
        self._quiet = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(self._quiet, None)
        c.llama_backend_init()
        settings = c.llama_model_default_params()
        settings.n_gpu_layers = 0
        settings.use_extra_bufts = repack
        # A random checkpoint's tokenizer has no merges, without which llama.cpp refuses the file.
        overrides = (c.llama_model_kv_override * 2)()
        overrides[0].tag = c.LLAMA_KV_OVERRIDE_TYPE_STR
        overrides[0].key = b"tokenizer.ggml.model"
        overrides[0].value.val_str = b"no_vocab"
        settings.kv_overrides = overrides
        started = time.perf_counter()
        self.model = c.llama_model_load_from_file(str(model).encode(), settings)
        self.load_seconds = time.perf_counter() - started
        if not self.model:
            raise click.ClickException(f"llama.cpp does not load {model}")
        self.flash = flash
        self.vocabulary = int(c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model)))
        self.random = random.Random(0)

    def open(self, sequences: int, tokens: int) -> Any:
        """Return a context for ``sequences`` of up to ``tokens`` each."""
        c = self.c
        options = c.llama_context_default_params()
        options.n_ctx = sequences * (tokens + _SEED)
        options.n_batch, options.n_ubatch = 2048, 512
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = threads()
        kind = "ENABLED" if self.flash else "DISABLED"
        options.flash_attn_type = getattr(c, f"LLAMA_FLASH_ATTN_TYPE_{kind}")
        options.kv_unified = False
        context = c.llama_init_from_model(self.model, options)
        if not context:
            raise click.ClickException("llama.cpp does not run the model")
        return context

    def decode(self, context: Any, tokens: list[tuple[int, int]], *, logits: bool) -> None:
        """Run one random token for each pair of a sequence and a position."""
        c = self.c
        batch = c.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, (sequence, position) in enumerate(tokens):
            batch.token[place] = self.random.randrange(self.vocabulary)
            batch.pos[place] = position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = sequence
            batch.logits[place] = logits
        status = c.llama_decode(context, batch)
        c.llama_synchronize(context)
        c.llama_batch_free(batch)
        if status:
            raise click.ClickException(f"llama_decode returned {status}")

    def fill(self, context: Any, sequences: int, tokens: int) -> None:
        """Give every sequence a context of ``tokens``: some computed ones, repeated."""
        c = self.c
        if not tokens:
            return
        self.decode(context, [(0, position) for position in range(_SEED)], logits=False)
        size = c.llama_state_seq_get_size(context, 0)
        buffer = (c.ctypes.c_uint8 * size)()
        c.llama_state_seq_get_data(context, buffer, size, 0)
        state = repeated(bytes(buffer), tokens)
        c.llama_memory_clear(c.llama_get_memory(context), True)
        given = (c.ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        for sequence in range(sequences):
            if not c.llama_state_seq_set_data(context, given, len(state), sequence):
                raise click.ClickException("llama.cpp does not take the state")


def repeated(state: bytes, tokens: int) -> bytes:
    """Return the state of a sequence with its rows repeated up to ``tokens``.

    The form is llama.cpp's: three words, then for each stream the cells (position, one sequence),
    two words, and for each layer its type, the bytes of a row, and the rows.
    """
    out = [state[:12]]
    (streams,) = struct.unpack_from("<I", state, 8)
    at = 12
    for _ in range(streams):
        (cells,) = struct.unpack_from("<I", state, at)
        at += 4
        if not cells:
            out.append(struct.pack("<I", 0))
            continue
        out.append(struct.pack("<I", tokens))
        out += [struct.pack("<iIi", position, 1, 0) for position in range(tokens)]
        at += 12 * cells
        _, layers = struct.unpack_from("<II", state, at)
        out.append(state[at : at + 8])
        at += 8
        for _ in range(layers):
            (row,) = struct.unpack_from("<Q", state, at + 4)
            out.append(state[at : at + 12])
            at += 12
            rows = state[at : at + row * cells]
            out.append((rows * -(-tokens // cells))[: row * tokens])
            at += row * cells
    return b"".join([*out, state[at:]])


def speed(bench: Bench, work: Work) -> float:
    """Return the speed at a row of the table."""
    sequences, more = max(work.sequences, 1), DECODE_STEPS + WARM
    context = bench.open(sequences, work.tokens + more)
    if work.sequences:
        bench.fill(context, sequences, work.tokens)

    def step(number: int) -> None:
        if work.sequences:
            at = work.tokens + number
            bench.decode(context, [(each, at) for each in range(sequences)], logits=True)
            return
        bench.c.llama_memory_clear(bench.c.llama_get_memory(context), True)
        for start in range(0, work.tokens, 512):
            part = range(start, min(start + 512, work.tokens))
            bench.decode(context, [(0, position) for position in part], logits=False)

    found = tokens_per_second(work, step)
    bench.c.llama_free(context)
    return found


def main(model: str, repack: str, flash: str, isa: str, *names: str) -> None:
    """Measure, and print one JSON line."""
    limited = None if isa == "native" else isa
    bench = Bench(Path(model), repack=repack == "1", flash=flash == "1", isa=limited)
    speeds = {name: speed(bench, Work.read(name)) for name in names}
    print(
        json.dumps(
            {"load_seconds": bench.load_seconds, "peak_rss_mb": peak_rss_mb(), "speeds": speeds}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
