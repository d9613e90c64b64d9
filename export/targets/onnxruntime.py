"""The target ``onnx``: graphs for ONNX Runtime, with their weights in a file beside them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from trtcoder import __version__
from trtcoder.bundle.manifest import FORMAT, Manifest, SourceInfo
from trtcoder.bundle.onnx import (
    CPU,
    CUDA,
    TARGET,
    GraphInfo,
    KernelGraph,
    OnnxParts,
    Requires,
)
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.graph.inputs import CACHE_BLOCK
from trtcoder.export.graph.registry import (
    ModelGraph,
    declare_graph,
    reads_panels,
    runs_stock_products,
)
from trtcoder.export.parity.graph_probe import GraphProbe
from trtcoder.export.recipe import Recipe, RecipeOptions, preset
from trtcoder.export.targets.cuda import ACTIVATIONS, cuda_recipe, declare_on_cuda
from trtcoder.export.targets.target import model_info
from trtcoder.export.weights.data_file import layout, open_data
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.export.weights.sink import Sink
from trtcoder.model.architecture import ModelConfig
from trtcoder.plugins.library import OPERATORS
from trtcoder.prompting.source import Prompting, prompt_files

GRAPH_FILE = "model.onnx"
KERNEL_GRAPH_FILE = "kernels.onnx"
TWIN_FILE = "twin.onnx"
DATA_FILE = "model.data"
# The release whose kernels the graph was measured with; QMoE's inputs differ before it.
ONNXRUNTIME = "1.31"


@dataclass(frozen=True, slots=True)
class OnnxPlan:
    """An engine for ONNX Runtime (see `EnginePlan`)."""

    checkpoint: Checkpoint
    recipe: Recipe
    graph: ModelGraph

    @property
    def weights(self) -> WeightPlan:
        """What is stored, and the steps that make it."""
        return self.graph.builder.plan

    @property
    def nbytes(self) -> int:
        """Bytes of the engine, but for its manifest and certificate."""
        _, data = layout(self.weights.declared.values())
        graphs = sum(int(ir.to_proto(model).ByteSize()) for model in self._models().values())
        return data + graphs + sum(map(len, prompt_files(self.checkpoint.folder).values()))

    @property
    def compiled_bytes(self) -> int:
        """Nothing is compiled."""
        return 0

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache of one token takes, all layers together."""
        return sum(cache.row_nbytes for cache in self.graph.caches)

    @property
    def data_files(self) -> tuple[str, ...]:
        """Names of the files that the sink writes."""
        return (DATA_FILE,)

    def open_sink(self, folder: Path) -> AbstractContextManager[Sink]:
        """Open the data file for writing; what is in it stays."""
        return open_data(self.weights, folder / DATA_FILE)

    def write_rest(self, folder: Path) -> None:
        """Write the graphs, which point at the data file, and what prompts need."""
        for name, model in self._models().items():
            ir.save(model, folder / name)
        for name, data in prompt_files(self.checkpoint.folder).items():
            (folder / name).write_bytes(data)

    def manifest(self, prompting: Prompting, digest: str, method: str = "rtn") -> Manifest:
        """Return the engine's manifest, without files and certificate."""
        recipe = {**self.recipe.to_dict(), "method": method}
        return Manifest(
            format=FORMAT,
            trtcoder=__version__,
            target=TARGET,
            model=model_info(self.checkpoint),
            source=SourceInfo(digest, self.checkpoint.stored_dtype),
            recipe={**recipe, "padded": dict(sorted(self.weights.padded.items()))},
            capabilities=prompting.capabilities,
            chat_format=prompting.chat_format,
            tokens=prompting.tokens,
            files={},
            parity=None,
            onnx=OnnxParts(
                GraphInfo(GRAPH_FILE, CACHE_BLOCK, self.graph.caches),
                Requires(ONNXRUNTIME, CPU if self.graph.twin is None else CUDA),
                self._kernel_graph(),
                None if self.graph.twin is None else TWIN_FILE,
            ),
            chat_template=prompting.chat_template,
            chat_refusal=prompting.chat_refusal,
            sampling=prompting.sampling,
        )

    def _models(self) -> dict[str, ir.Model]:
        """Return the graphs by file."""
        offsets, _ = layout(self.weights.declared.values())
        builders = {GRAPH_FILE: self.graph.builder}
        if self.graph.kernels is not None:
            builders[KERNEL_GRAPH_FILE] = self.graph.kernels
        if self.graph.twin is not None:
            builders[TWIN_FILE] = self.graph.twin
        return {name: b.model(DATA_FILE, offsets) for name, b in builders.items()}

    def _kernel_graph(self) -> KernelGraph | None:
        """Return what the manifest says of the graph in our operators."""
        b = self.graph.kernels
        if b is None:
            return None
        whole = not runs_stock_products(b)
        return KernelGraph(KERNEL_GRAPH_FILE, OPERATORS, whole, products=reads_panels(b))


class OnnxRuntime:
    """Engines that ONNX Runtime runs, on the CPU or on CUDA (see `Target`)."""

    name = TARGET
    precisions = ("int4", "fp32", "fp8", "int8", "mixed")

    def require(self) -> None:
        """Ask for nothing: every engine needs what these do."""

    def recipe(self, options: RecipeOptions) -> Recipe:
        """Return the preset of that name."""
        if options.weights == "nvfp4":
            raise BuildError(
                "--weights nvfp4: ONNX Runtime has no kernels for it; use --target tensorrt-llm, a "
                "checkpoint for Blackwell GPUs, or --weights int4"
            )
        if options.provider == "cuda":
            return cuda_recipe(options)
        if options.weights not in (None, *self.precisions):
            raise BuildError(
                f"--weights {options.weights}: --target {TARGET} stores one of "
                f"{', '.join(self.precisions)}; use one of them"
            )
        if options.activations in ACTIVATIONS:
            raise BuildError(
                f"--activations {options.activations}: is for --provider cuda; the CPU's operators "
                "take float32"
            )
        return preset(
            options.weights or self.precisions[0],
            block_size=32 if options.block_size is None else options.block_size,
            symmetric=options.symmetric,
            cache=options.cache or "fp32",
            accuracy_level=options.accuracy_level,
            fp8_scales=options.fp8_scales,
            activations=options.activations,
            absorbed=options.absorbed,
        )

    def plan(
        self, checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None = None
    ) -> OnnxPlan:
        """Plan an engine."""
        if recipe.provider == "cuda":
            graph = declare_on_cuda(checkpoint, recipe, quantizer)
        else:
            graph = declare_graph(checkpoint, recipe, quantizer)
        return OnnxPlan(checkpoint, recipe, graph)

    def probe_levels(self, manifest: Manifest) -> tuple[int | None, ...]:
        """Return None, and 0 where the kernels round activations to int8."""
        return (None, 0) if manifest.recipe.get("accuracy_level") else (None,)

    def probe(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        *,
        accuracy_level: int | None = None,
    ) -> GraphProbe:
        """Return what watches the graph in ``folder``."""
        return GraphProbe(folder, manifest, config, accuracy_level=accuracy_level)
