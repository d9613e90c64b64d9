"""Watches an engine of plans: by its graphs, which it was compiled from, on ONNX Runtime's CPU.

A plan runs on a GPU only. Its graph with the same weights runs anywhere: what is watched is one
layer of it at a time, cut out with the nodes that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.compiled import CompiledParts
from trtcoder.bundle.manifest import Manifest
from trtcoder.errors import DependencyError, EngineError
from trtcoder.export.parity.graph_session import open_model
from trtcoder.export.reference.trace import LayerTrace
from trtcoder.model.architecture import ModelConfig
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.tensorrt_rtx.step import Rotary, read_embeddings

Floats = NDArray[np.float32]
_COMMON = ("places", "window", "cos", "sin")


@dataclass(slots=True)
class SlotState:
    """One sequence on its way through the layers.

    Attributes:
        tokens: int64 ``[T]``.
        chunks: the tokens of each run.
        cos, sin: float32 ``[T, rope / 2]``.
        hidden: float32 ``[T, H]``, the residual stream.
    """

    tokens: NDArray[np.int64]
    chunks: list[slice]
    cos: Floats
    sin: Floats
    hidden: Floats


class SlotProbe:
    """Runs the graphs of an engine of plans (see `trtcoder.export.parity.probe.Probe`)."""

    # Rows of a slot follow one another, wherever the positions of their tokens are.
    block = 1

    def __init__(self, folder: Path, manifest: Manifest, config: ModelConfig) -> None:
        """Look where the layers are; no weight is opened.

        Raises:
            DependencyError: onnx or onnxruntime is not installed.
            EngineError: the manifest is of another kind of engine.
        """
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise DependencyError(
                f"{error.name} is not installed; install it with "
                "`pip install 'trtcoder[build,cpu]'`"
            ) from error
        self._folder, self._manifest = folder, manifest
        self._config = DeepseekV2Config.of(config)
        self._rotary = Rotary.of(self._config)

    @property
    def _parts(self) -> CompiledParts:
        parts = self._manifest.compiled
        if parts is None:
            raise EngineError(f"{self._folder}: has no compiled plans")
        return parts

    def versions(self) -> dict[str, str]:
        """Return the versions of what runs the graphs, and of what compiled the plans."""
        import onnxruntime

        return {"onnxruntime": str(onnxruntime.__version__), **self._parts.builder}

    def start(
        self,
        tokens: Sequence[int],
        positions: NDArray[np.int64] | None = None,
        chunk: int | None = None,
    ) -> SlotState:
        """Return a sequence before the first layer."""
        ids = np.asarray(tokens, np.int64)
        where = np.arange(len(ids)) if positions is None else positions
        size = chunk or len(ids)
        chunks = [slice(start, start + size) for start in range(0, len(ids), size)]
        cos, sin = self._rotary.angles(where)
        return SlotState(ids, chunks, cos, sin, np.empty((0, 0), np.float32))

    def embed(self, states: Sequence[SlotState]) -> None:
        """Look the tokens up."""
        path = self._folder / self._parts.embedding
        for state in states:
            state.hidden = read_embeddings(path, state.tokens, self._config.hidden_size)

    def run_layer(self, layer: int, states: Sequence[SlotState]) -> list[LayerTrace]:
        """Run all sequences through one decoder layer, and return what it made of each."""
        graph, first = next(
            (plan.graph, plan.layers[0])
            for plan in self._parts.plans
            if plan.layers is not None and plan.layers[0] <= layer < plan.layers[1]
        )
        taken = "hidden" if layer == first else f"layers.{layer - 1}/output"
        cache = f"cache.{layer}"
        outputs = [f"layers.{layer}/output", f"{cache}.out"]
        if self._config.is_moe_layer(layer):
            outputs.append(f"layers.{layer}/moe/router/probabilities")
        session = self._open(graph, [taken, *_COMMON, cache], outputs)
        return [self._run(session, state, taken, cache, outputs) for state in states]

    def logits(self, states: Sequence[SlotState]) -> Iterator[Floats]:
        """Yield the logits of each sequence, float32 ``[T, V]``, behind the last layer."""
        session = self._open(self._parts.plans[-1].graph, ["hidden"], ["logits"])
        for state in states:
            yield session.run(None, {"hidden": state.hidden})[0]

    def _run(
        self, session: Any, state: SlotState, taken: str, cache: str, outputs: list[str]
    ) -> LayerTrace:
        """Run a sequence's chunks through a layer, each with the rows of those before it."""
        count = len(state.tokens)
        rows = np.zeros((1, 1, count, self._config.cache_width), np.float16)
        hidden, probabilities = [], []
        for chunk in state.chunks:
            places = np.arange(count, dtype=np.int64)[chunk]
            made = session.run(
                outputs,
                {
                    taken: state.hidden[chunk],
                    "places": places[None],
                    "window": np.arange(places[-1] + 1, dtype=np.int64),
                    "cos": state.cos[None, chunk],
                    "sin": state.sin[None, chunk],
                    cache: rows,
                },
            )
            rows = made[1]
            hidden.append(made[0])
            probabilities += made[2:]
        state.hidden = np.concatenate(hidden)
        return LayerTrace(state.hidden, np.concatenate(probabilities) if probabilities else None)

    def _open(self, graph: str, inputs: list[str], outputs: list[str]) -> Any:
        """Open the nodes of a graph that make ``outputs`` of ``inputs``."""
        import onnx
        import onnx.utils

        path = self._folder / graph
        try:
            model = onnx.load(str(path), load_external_data=False)
            part = onnx.utils.Extractor(model).extract_model(inputs, outputs)
        except Exception as error:  # protobuf's and onnx' classes share no public base
            raise EngineError(
                f"{path}: is not the graph of an engine ({error}); build the engine again"
            ) from error
        return open_model(self._folder, self._manifest.files, part, graph)
