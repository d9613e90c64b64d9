"""Runs an engine's graph with its inner values exposed, for verification.

The graph is the one that serves, run part by part (see `graph_parts`): all sequences pass
one layer before the next one's weights are opened, so that an engine of any size is verified
in the memory of its largest part. It is run straight through ONNX Runtime, so that a fault of the
serving code cannot hide one of the graph, or the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle.manifest import Manifest
from trtcoder.cores import available_cores
from trtcoder.errors import DependencyError
from trtcoder.export.parity.graph_parts import GraphPart, cut_graph
from trtcoder.export.parity.graph_sequence import GraphSequence
from trtcoder.export.parity.graph_session import open_model
from trtcoder.export.reference.trace import LayerTrace, stacked
from trtcoder.model.architecture import ModelConfig
from trtcoder.plugins.choice import Choice, choose, without_kernels

if TYPE_CHECKING:
    import onnx


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


class GraphProbe:
    """Watches an engine's graph (see `Probe`), with one part of it in memory at a time."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        *,
        accuracy_level: int | None = None,
        choice: Choice | None = None,
    ) -> None:
        """Read the graph that ``choice`` runs, by default the one that runs here.

        ``accuracy_level`` overrides what the nodes of ONNX Runtime's own operators say, and chooses
        them: our kernels have one accuracy. No weight is opened.

        Raises:
            DependencyError: onnx or onnxruntime is not installed.
            EngineError: the graph cannot be cut into layers.
        """
        try:
            import onnx
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise DependencyError(
                f"{error.name} is not installed; install it with "
                "`pip install 'trtcoder[build,cpu]'`"
            ) from error
        self._folder = folder
        self._manifest = manifest
        self._layers = config.num_hidden_layers
        self._watched = [
            (f"layers.{layer}/output", _router(layer) if config.is_moe_layer(layer) else None)
            for layer in range(self._layers)
        ]
        parts = manifest.onnx_parts
        # What is verified of an engine for CUDA is its twin, whose caches are float32.
        self._cache_dtypes = {
            cache.name: np.dtype("float32" if parts.twin else cache.dtype)
            for cache in parts.graph.caches
        }
        if accuracy_level is not None:
            choice = without_kernels(parts)
        if parts.twin is not None:
            choice = Choice(parts.twin, None, "the twin of a graph for CUDA")
        self._choice = choice or choose(parts)
        model = onnx.load(str(folder / self._choice.file), load_external_data=False)
        if accuracy_level is not None:
            _override(model, accuracy_level)
        add_probabilities(model, (router for _, router in self._watched if router))
        names = (name for pair in self._watched for name in pair if name)
        self._parts = cut_graph(model, self._layers, names)

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
        (trace,) = self.run_all([tokens], [positions], chunk=chunk)
        return trace

    def run_all(
        self,
        sequences: Sequence[Sequence[int]],
        positions: Sequence[NDArray[np.int64] | None] | None = None,
        *,
        chunk: int | None = None,
        on_stage: Callable[[str], None] = lambda name: None,
    ) -> list[EngineTrace]:
        """Run each sequence by itself, as `run` does; ``on_stage`` is told each part's name."""
        states = [
            self.start(tokens, where, chunk)
            for tokens, where in zip(sequences, positions or [None] * len(sequences), strict=True)
        ]
        self.embed(states)
        on_stage(self._parts[0].name)
        layers: list[list[LayerTrace]] = []
        for layer in range(self._layers):
            layers.append(self.run_layer(layer, states))
            on_stage(self._parts[layer + 1].name)
        logits = list(self.logits(states))
        on_stage(self._parts[-1].name)
        return [
            EngineTrace(
                logits=values,
                hidden=np.stack([layer.hidden for layer in passed]),
                router_probabilities=stacked(
                    (layer.router_probabilities for layer in passed), len(values)
                ),
            )
            for values, passed in zip(logits, zip(*layers, strict=True), strict=True)
        ]

    @property
    def block(self) -> int:
        """Positions of a sequence may have gaps only between blocks of so many."""
        return self._manifest.graph.cache_block

    def versions(self) -> dict[str, str]:
        """Return the version of ONNX Runtime, and the instruction set of our kernels."""
        import onnxruntime

        found = {"onnxruntime": str(onnxruntime.__version__), **self._choice.versions}
        if self._manifest.onnx_parts.twin is not None:
            # What was run is not what serves: a reader of the certificate must see it.
            found["graph"] = f"{self._choice.file} on the CPU, in place of CUDA"
        return found

    def start(
        self,
        tokens: Sequence[int],
        positions: NDArray[np.int64] | None = None,
        chunk: int | None = None,
    ) -> GraphSequence:
        """Return a sequence before the first part; the arguments are those of `run`."""
        return GraphSequence.start(tokens, positions, chunk, self.block)

    def embed(self, states: Sequence[GraphSequence]) -> None:
        """Run the prologue: embedding, rotary angles, mask."""
        session = self._open(self._parts[0])
        for state in states:
            self._pass(self._parts[0], session, state)

    def run_layer(self, layer: int, states: Sequence[GraphSequence]) -> list[LayerTrace]:
        """Run all sequences through one decoder layer, and return what it made of each.

        The layers must be run in their order, behind `embed`.
        """
        part = self._parts[layer + 1]
        session = self._open(part)
        hidden, router = self._watched[layer]
        traces = []
        for state in states:
            made = self._pass(part, session, state)
            traces.append(
                LayerTrace(_joined(made, hidden), _joined(made, router) if router else None)
            )
        return traces

    def logits(self, states: Sequence[GraphSequence]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each sequence, float32 ``[T, V]``, behind the last layer."""
        part = self._parts[-1]
        session = self._open(part)
        for state in states:
            yield _joined(self._pass(part, session, state), "logits")

    def _pass(
        self, part: GraphPart, session: Any, state: GraphSequence
    ) -> list[dict[str, NDArray[Any]]]:
        """Run a sequence's chunks through a part; return what each of them made, by name."""
        caches = {
            cache.name: np.zeros((state.cache_rows, cache.width), self._cache_dtypes[cache.name])
            for cache in self._manifest.graph.caches
            if cache.name in part.inputs
        }
        found = []
        for each in state.passes:
            given = each.inputs | each.values | caches
            results = session.run(part.outputs, {name: given[name] for name in part.inputs})
            made = dict(zip(part.outputs, results, strict=True))
            # The prologue takes a cache for its length, and writes none.
            caches = {name: made.pop(f"{name}.out", rows) for name, rows in caches.items()}
            known = each.values | made
            each.values = {name: known[name] for name in part.passed}
            found.append(made)
        return found

    def _open(self, part: GraphPart) -> Any:
        return open_model(
            self._folder,
            self._manifest.files,
            part.model,
            part.name,
            configure=lambda options: self._choice.configure(options, available_cores()),
        )


def _joined(made: list[dict[str, NDArray[Any]]], name: str) -> NDArray[np.float32]:
    """Return a value of all chunks, without a copy where there is one chunk."""
    parts = [values[name] for values in made]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _router(layer: int) -> str:
    return f"layers.{layer}/moe/router/probabilities"


def add_probabilities(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Add the softmax of routers to a graph where an operator gives their logits alone."""
    import onnx

    made = {name for node in model.graph.node for name in node.output}
    for name in names:
        logits = name.removesuffix("/probabilities")
        if name not in made and logits in made:
            node = onnx.helper.make_node("Softmax", [logits], [name], name=name, axis=-1)
            model.graph.node.append(node)
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            model.graph.value_info.append(value)


def _override(model: onnx.ModelProto, accuracy_level: int) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = accuracy_level
