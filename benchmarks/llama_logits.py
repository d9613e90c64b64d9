"""Logits of llama.cpp for exact token ids, through its C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.llama_cpp import LlamaCpp, threads


class LlamaModel:
    """A GGUF in memory, run by llama.cpp on this CPU.

    Its kernels round activations to 8 bits, as ours do. Three settings differ from its defaults:

    - The cache is float32 instead of float16, and attention is not the fused kernel, so that what
      is compared is what the weights' format costs. Neither makes llama.cpp's figures worse.
    - Weights are not repacked for the CPU, which changes speed and not precision: on a CPU with
      AMX this release aborts on attn_v_b as Q8_0 in the AMX layout.
    """

    def __init__(self, llama: LlamaCpp, path: Path, context: int) -> None:
        """Load ``path`` for sequences of up to ``context`` tokens."""
        self._c = c = llama.bindings()
        self._quiet = c.llama_log_callback(_ignore)  # kept: the library holds a bare pointer
        c.llama_log_set(self._quiet, None)
        c.llama_backend_init()
        settings = c.llama_model_default_params()
        settings.n_gpu_layers = 0
        settings.use_extra_bufts = False
        self._model = c.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise click.ClickException(f"llama.cpp does not load {path}")
        self._vocab_size = int(c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model)))
        options = c.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = context
        options.n_threads = options.n_threads_batch = threads()
        options.type_k = options.type_v = c.GGML_TYPE_F32
        options.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = c.llama_init_from_model(self._model, options)
        if not self._context:
            raise click.ClickException(f"llama.cpp does not run {path}")
        self._batch = c.llama_batch_init(context, 0, 1)
        self._longest = context

    def run_all(self, sequences: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float32]]:
        """Yield logits ``[T, V]`` of each sequence."""
        return map(self.run, sequences)

    def run(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return logits ``[T, V]`` of one sequence, from an empty cache.

        Raises:
            ValueError: it is longer than ``context``.
        """
        c, batch = self._c, self._batch
        if len(ids) > self._longest:
            raise ValueError(f"{len(ids)} tokens; there is room for {self._longest}")
        c.llama_memory_clear(c.llama_get_memory(self._context), True)
        batch.n_tokens = len(ids)
        for position, token in enumerate(ids):
            batch.token[position] = token
            batch.pos[position] = position
            batch.n_seq_id[position] = 1
            batch.seq_id[position][0] = 0
            batch.logits[position] = True
        status = c.llama_decode(self._context, batch)
        if status:
            raise click.ClickException(f"llama_decode returned {status}")
        found = np.ctypeslib.as_array(
            c.llama_get_logits(self._context), shape=(len(ids), self._vocab_size)
        )
        return np.array(found, np.float32)

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._c.llama_batch_free(self._batch)
        self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)


def _ignore(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Drop a message of the library."""
