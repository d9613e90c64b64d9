"""Runs an engine's graph with its inner values exposed, for verification.

The graph is the one that serves: outputs are added for the residual stream after each layer and
for the router's probabilities, nothing else changes. It is run straight through ONNX Runtime, so
that a fault of the serving code cannot hide one of the graph, or the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle import Manifest
from trtcoder.config import ModelConfig
from trtcoder.errors import DependencyError, EngineError

_DTYPES = {"float32": np.float32, "int8": np.int8, "uint8": np.uint8}


@dataclass(frozen=True, slots=True)
class EngineTrace:
    """What the engine computed for one sequence of T tokens.

    Attributes:
        logits: float32 ``[T, V]``.
        hidden: float32 ``[L, T, H]``, the residual stream after each layer.
        router_probabilities: float32 ``[Lm, T, E]``, of each mixture-of-experts layer.
    """

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]
    router_probabilities: NDArray[np.float32]


class Probe:
    """A session over an engine's graph whose layers can be watched."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        *,
        accuracy_level: int | None = None,
    ) -> None:
        """Load the graph; ``accuracy_level`` overrides what its nodes say.

        Raises:
            DependencyError: onnx or onnxruntime is not installed.
            EngineError: ONNX Runtime refuses the graph.
        """
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise DependencyError(
                f"{error.name} is not installed; install it with "
                "`pip install 'trtcoder[build,cpu]'`"
            ) from error
        self._manifest = manifest
        layers = config.num_hidden_layers
        self._hidden = [f"layers.{layer}/output" for layer in range(layers)]
        self._routers = [
            f"layers.{layer}/moe/router/probabilities"
            for layer in range(layers)
            if config.is_moe_layer(layer)
        ]
        model = onnx.load(str(folder / manifest.graph.file), load_external_data=False)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level" and accuracy_level is not None:
                    attribute.i = accuracy_level
        for name in self._hidden + self._routers:
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
        options.log_severity_level = 3
        # As the runtime does: float8 weights become float32 once, and nothing else is fused.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=[manifest.requires.provider]
            )
        except Exception as error:  # onnxruntime's own classes have no common public base
            raise EngineError(f"{folder}: ONNX Runtime refuses the graph: {error}") from error

    def run(
        self,
        tokens: Sequence[int],
        *,
        positions: NDArray[np.int64] | None = None,
        chunk: int | None = None,
    ) -> EngineTrace:
        """Run one sequence, ``chunk`` tokens at a time (all at once when None).

        ``positions`` count from 0 if not given. They may start later and leave gaps between cache
        blocks: the blocks of the positions in between are absent.
        """
        count, block = len(tokens), self._manifest.graph.cache_block
        where = np.arange(count) if positions is None else np.asarray(positions, np.int64)
        firsts = where[::block]
        blocks = len(firsts)
        followed = (firsts[:, None] + np.arange(block)).reshape(-1)[:count]
        if not np.array_equal(where, followed) or (firsts % block).any():
            raise ValueError(f"positions may have gaps only between blocks of {block}")
        table = np.full((1, firsts[-1] // block + 1), -1, np.int64)
        table[0, firsts // block] = np.arange(blocks)
        caches = {
            cache.name: np.zeros((blocks * block, cache.width), _DTYPES[cache.dtype])
            for cache in self._manifest.graph.caches
        }
        outputs = ["logits", *self._hidden, *self._routers, *(f"{name}.out" for name in caches)]
        found: list[list[NDArray[np.float32]]] = []
        for start in range(0, count, chunk or count):
            rows = np.arange(start, min(start + (chunk or count), count), dtype=np.int64)
            results = self._session.run(
                outputs,
                {
                    "input_ids": np.asarray(tokens, np.int64)[rows],
                    "positions": where[rows],
                    "slots": rows,
                    "sequences": np.zeros_like(rows),
                    "block_table": table,
                    "sample_rows": rows - start,
                    **caches,
                },
            )
            split = len(outputs) - len(caches)
            found.append(results[:split])
            caches = dict(zip(caches, results[split:], strict=True))
        values = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        layers = len(self._hidden)
        routers = values[1 + layers :]
        return EngineTrace(
            logits=values[0],
            hidden=np.stack(values[1 : 1 + layers]),
            router_probabilities=(
                np.stack(routers) if routers else np.zeros((0, count, 0), np.float32)
            ),
        )
