"""One engine of compiled plans, planned from shapes: its weights, its graphs and its manifest."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from trtcoder import __version__
from trtcoder.bundle.compiled import TARGET, CompiledParts, PlanInfo
from trtcoder.bundle.manifest import FORMAT, Manifest, SourceInfo
from trtcoder.calib.quantizers.quantizer import Quantizer
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.compiling import CHUNK, CONTEXT, SCORE_BYTES, SLOTS
from trtcoder.export.graph.builder import CudaForm, GraphBuilder
from trtcoder.export.graph.slots.deepseek_v2 import declare_head, declare_layers
from trtcoder.export.graph.slots.model import HALF, SlotModel
from trtcoder.export.recipe import Recipe
from trtcoder.export.targets.target import model_info
from trtcoder.export.targets.tensorrt_rtx.compilation import Compilation, Shapes, compile_plans
from trtcoder.export.targets.tensorrt_rtx.stages import split_layers
from trtcoder.export.weights.data_file import Placed, layout
from trtcoder.export.weights.data_files import open_data_files
from trtcoder.export.weights.matrix import Matrix, Piece
from trtcoder.export.weights.modules import Kept, Linear, add_steps
from trtcoder.export.weights.plan import Weight, WeightPlan
from trtcoder.export.weights.sink import Sink
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.prompting.source import Prompting, prompt_files
from trtcoder.tensorrt_rtx.gpus import default_gpus

EMBEDDING = "embedding"
# TensorScatter came with it.
OPSET = 24


@dataclass(frozen=True, slots=True)
class Stage:
    """One plan: its graph, the weights in its data file, and its layers, None for the head."""

    name: str
    builder: GraphBuilder
    weights: tuple[Weight, ...]
    layers: range | None

    @property
    def data_file(self) -> str:
        """The file of its weights."""
        return f"{self.name}.data"

    @property
    def info(self) -> PlanInfo:
        """What the manifest says of it."""
        layers = None if self.layers is None else (self.layers.start, self.layers.stop)
        return PlanInfo(f"{self.name}.plan", f"{self.name}.onnx", layers)

    def model(self) -> ir.Model:
        """Return its graph, which points at the data file."""
        return self.builder.model(self.data_file, layout(self.weights)[0])

    def save(self, folder: Path) -> None:
        """Write its graph."""
        ir.save(self.model(), folder / self.info.graph)


@dataclass(frozen=True)
class RtxPlan:
    """An engine of compiled plans (see `EnginePlan`)."""

    checkpoint: Checkpoint
    recipe: Recipe
    weights: WeightPlan
    table: tuple[Weight, ...]
    stages: tuple[Stage, ...]

    @classmethod
    def make(cls, checkpoint: Checkpoint, recipe: Recipe, quantizer: Quantizer | None) -> RtxPlan:
        """Plan the embedding, the layers in as few plans as they fit into, and the head."""
        config = DeepseekV2Config.of(checkpoint.config)
        plan = WeightPlan(quantizer)
        source = Matrix(checkpoint, (Piece("model.embed_tokens.weight"),))
        linear = Linear("embed_tokens", "embed_tokens/weight", EMBEDDING, "", source)
        add_steps(plan, Kept(plan, linear))
        table = tuple(plan.declared.values())
        stages = []
        for layers in split_layers(_layer_bytes(checkpoint, config, recipe)):
            name = f"layers.{layers.start:02d}-{layers.stop - 1:02d}"
            model = _model(name, plan, checkpoint, recipe)
            stages.append(_stage(model, name, layers))
        model = _model("head", plan, checkpoint, recipe)
        stages.append(_stage(model, "head", None))
        return cls(checkpoint, recipe, plan, table, tuple(stages))

    @functools.cached_property
    def compilation(self) -> Compilation:
        """What the plans are compiled for, every choice made."""
        asked, config = self.recipe.compiling, DeepseekV2Config.of(self.checkpoint.config)
        context = asked.context or min(CONTEXT, config.max_position_embeddings)
        scores = 2 * config.num_attention_heads * context
        chunk = asked.chunk or max(1, min(CHUNK, context, SCORE_BYTES // scores))
        return Compilation(
            capabilities=asked.capabilities or default_gpus(self.recipe.weights),
            shapes=Shapes(asked.slots or SLOTS, context, min(chunk, context)),
            weight_streaming=asked.weight_streaming,
        )

    @property
    def placed(self) -> dict[str, Placed]:
        """What each data file holds, and where."""
        held = {f"{EMBEDDING}.data": self.table}
        held |= {stage.data_file: stage.weights for stage in self.stages}
        return {
            name: Placed({weight.name: weight for weight in weights}, *layout(weights))
            for name, weights in held.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the engine, but for its manifest and certificate, and about those of plans."""
        weights = sum(each.size for each in self.placed.values()) + self.compiled_bytes
        graphs = sum(int(ir.to_proto(stage.model()).ByteSize()) for stage in self.stages)
        return weights + graphs + sum(map(len, prompt_files(self.checkpoint.folder).values()))

    @property
    def compiled_bytes(self) -> int:
        """Bytes of the plans: they are as large as their weights, and some code."""
        return sum(weight.nbytes for stage in self.stages for weight in stage.weights)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache of one token takes, all layers together: latent, in float16."""
        config = DeepseekV2Config.of(self.checkpoint.config)
        return 2 * config.num_hidden_layers * config.cache_width

    @property
    def data_files(self) -> tuple[str, ...]:
        """Names of the files of weights, and of the plans that are made of them."""
        return (*self.placed, *(stage.info.file for stage in self.stages))

    def open_sink(self, folder: Path) -> AbstractContextManager[Sink]:
        """Open the data files for writing; what is in them stays."""
        return open_data_files(self.placed, folder)

    def write_rest(self, folder: Path) -> None:
        """Write graphs and what prompts need, and compile the plans that are not there yet."""
        self.write_graphs(folder)
        sizes = {name: each.size for name, each in self.placed.items()}
        compile_plans(
            folder,
            {stage.info: sizes[stage.data_file] for stage in self.stages},
            self.compilation,
        )

    def write_graphs(self, folder: Path) -> None:
        """Write what plans are compiled from, but for the weights, and what prompts need."""
        for name, data in prompt_files(self.checkpoint.folder).items():
            (folder / name).write_bytes(data)
        for stage in self.stages:
            stage.save(folder)

    def manifest(self, prompting: Prompting, digest: str, method: str = "rtn") -> Manifest:
        """Return the manifest, without files and certificate."""
        compilation = self.compilation
        recipe = self.recipe.to_dict()
        schemes = {kind: str(scheme) for kind, scheme in sorted(self.recipe.schemes.items())}
        schemes |= {"embedding": "bf16", "lm_head": "fp16"}
        return Manifest(
            format=FORMAT,
            trtcoder=__version__,
            target=TARGET,
            model=model_info(self.checkpoint),
            source=SourceInfo(digest, self.checkpoint.stored_dtype),
            recipe={
                **recipe,
                "schemes": schemes,
                "method": method,
                "padded": dict(sorted(self.weights.padded.items())),
            },
            capabilities=prompting.capabilities,
            chat_format=prompting.chat_format,
            tokens=prompting.tokens,
            files={},
            parity=None,
            chat_template=prompting.chat_template,
            chat_refusal=prompting.chat_refusal,
            sampling=prompting.sampling,
            compiled=CompiledParts(
                builder=compilation.builder(),
                compute_capabilities=compilation.capabilities,
                slots=compilation.shapes.slots,
                context=compilation.shapes.context,
                chunk=compilation.shapes.chunk,
                weight_streaming=compilation.weight_streaming,
                embedding=f"{EMBEDDING}.data",
                plans=tuple(stage.info for stage in self.stages),
            ),
        )


def _model(name: str, plan: WeightPlan, checkpoint: Checkpoint, recipe: Recipe) -> SlotModel:
    return SlotModel(GraphBuilder(name, plan, cuda=CudaForm(HALF), opset=OPSET), checkpoint, recipe)


def _stage(model: SlotModel, name: str, layers: range | None) -> Stage:
    """Declare a plan's graph; what it adds to the plan of the weights goes to its file."""
    config, plan = DeepseekV2Config.of(model.checkpoint.config), model.b.plan
    before = len(plan.declared)
    if layers is None:
        declare_head(model, config)
    else:
        declare_layers(model, config, layers)
    return Stage(name, model.b, tuple(plan.declared.values())[before:], layers)


def _layer_bytes(checkpoint: Checkpoint, config: DeepseekV2Config, recipe: Recipe) -> list[int]:
    """Return the bytes of each layer's weights; those of one kind have equally many."""
    sizes: dict[bool, int] = {}
    for layer in range(config.num_hidden_layers):
        kind = config.is_moe_layer(layer)
        if kind not in sizes:
            plan = WeightPlan()
            declare_layers(_model("", plan, checkpoint, recipe), config, range(layer, layer + 1))
            sizes[kind] = layout(plan.declared.values())[1]
    return [sizes[config.is_moe_layer(layer)] for layer in range(config.num_hidden_layers)]
