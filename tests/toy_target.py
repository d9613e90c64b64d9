"""A kind of engine that trtcoder does not know and that is no graph: a checkpoint, written anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.safetensors_sink import SafetensorsSink
from tests.toy_architecture import ToyReference, ToySequence
from trtcoder.bundle.manifest import FORMAT, Manifest, ModelInfo, SourceInfo
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.recipe import Recipe, RecipeOptions, preset
from trtcoder.export.reference.trace import LayerTrace
from trtcoder.export.weights.convert import declare_parameter
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.export.weights.sink import Sink
from trtcoder.model.architecture import ModelConfig
from trtcoder.prompting.source import Prompting, prompt_files

FILE = "model.safetensors"


@dataclass(frozen=True)
class CopyPlan:
    """One such engine (see `EnginePlan`)."""

    checkpoint: Checkpoint
    recipe: Recipe
    weights: WeightPlan
    cache_bytes: int = 0
    compiled_bytes: int = 0
    data_files: tuple[str, ...] = (FILE,)

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights.declared.values())

    def open_sink(self, folder: Path) -> AbstractContextManager[Sink]:
        files = dict.fromkeys(self.weights.declared, FILE)
        return nullcontext(SafetensorsSink(self.weights, folder, files))

    def write_rest(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(dict(self.checkpoint.config.raw)))
        for name, data in prompt_files(self.checkpoint.folder).items():
            (folder / name).write_bytes(data)

    def manifest(self, prompting: Prompting, digest: str, method: str = "rtn") -> Manifest:
        config = self.checkpoint.config
        return Manifest(
            format=FORMAT,
            trtcoder="0",
            target=CopyTarget.name,
            model=ModelInfo(
                "toy", dict(config.raw), config.vocab_size, config.max_position_embeddings
            ),
            source=SourceInfo(digest, self.checkpoint.stored_dtype),
            recipe=self.recipe.to_dict(),
            capabilities=prompting.capabilities,
            chat_format=prompting.chat_format,
            tokens=prompting.tokens,
            files={},
            parity=None,
        )


class CopyTarget:
    """Copies of checkpoints (see `Target`); ``fault`` is added to every value."""

    name = "copy"
    precisions = ("fp32",)

    def __init__(self, fault: float = 0.0) -> None:
        self._fault = fault

    def require(self) -> None:
        pass

    def recipe(self, options: RecipeOptions) -> Recipe:
        return preset("fp32")

    def plan(
        self, checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
    ) -> CopyPlan:
        plan = WeightPlan(quantizer)
        for name in checkpoint.names():
            shape, dtype = checkpoint.shape(name), checkpoint.dtype(name)
            read = partial(self._read, checkpoint, name)
            declare_parameter(plan, name, "norms", shape, (name,), dtype, read)
        return CopyPlan(checkpoint, recipe, plan)

    def probe_levels(self, manifest: Manifest) -> tuple[int | None, ...]:
        return (None,)

    def probe(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        *,
        accuracy_level: int | None = None,
    ) -> CopyProbe:
        return CopyProbe(folder)

    def _read(self, checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
        return checkpoint.read(name) + np.float32(self._fault)


class CopyProbe:
    """Computes with what was written (see `Probe`)."""

    block = 1

    def __init__(self, folder: Path) -> None:
        self._model = ToyReference(Checkpoint.open(folder))

    def versions(self) -> dict[str, str]:
        return {"copy": "1"}

    def start(
        self,
        tokens: Sequence[int],
        positions: NDArray[np.int64] | None = None,
        chunk: int | None = None,
    ) -> ToySequence:
        return self._model.embed(np.array(tokens), 0 if positions is None else positions)

    def embed(self, states: Sequence[ToySequence]) -> None:
        pass

    def run_layer(self, layer: int, states: Sequence[ToySequence]) -> list[LayerTrace]:
        return self._model.run_layer(layer, states)

    def logits(self, states: Sequence[ToySequence]) -> Iterator[NDArray[np.float32]]:
        return self._model.logits(states)
