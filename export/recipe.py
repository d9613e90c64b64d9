"""What precision each part of a model is stored in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trtcoder.calib.storage.float8 import Float8
from trtcoder.calib.storage.nvfp4 import Nvfp4
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.calib.storage.storage import GraphStorage, Storage
from trtcoder.errors import BuildError
from trtcoder.export.compiling import BY_DEFAULT, Compiling

WEIGHTS = ("fp32", "fp8", "int8", "int4", "mixed")
CACHES = ("fp32", "int8", "fp8")
FP8_SCALES = ("block", "tensor")
PROVIDERS = ("cpu", "cuda")
ABSORBED = ("exact", "int8")
# How W_UK and W_UV are stored in 8 bits: 32 of a head's inputs share a scale, each output has its
# own. Wider blocks would save 4 % of their bytes.
ABSORBED_INT8 = Scheme(8, 32)
# The classes of tensors that have a scheme. The router and the norms keep the checkpoint's values.
SCHEMED = ("embedding", "attention", "mlp", "experts_gate_up", "experts_down", "lm_head")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Schemes by tensor class, the cache's type, and the kernels' accuracy level.

    Attributes:
        weights: the precision's name, by which the certificate's gates are chosen.
        schemes: one for each class of `SCHEMED`; ``class@3`` overrides it for layer 3.
        cache: ``fp32``, ``int8`` or ``fp8``; for CUDA what ``activations`` says instead of fp32, in
            compiled plans ``fp16``.
        accuracy_level: 4 lets the kernels round activations to int8, block by block, which is
            about twice as fast; 0 keeps them float32.
        activations: what matmuls with float8 weights round activations to, one of
            `trtcoder.calib.storage.float8.ACTIVATIONS`; for CUDA ``fp16`` or ``bf16``, in which
            layers pass values on; None otherwise.
        provider: ``cpu`` or ``cuda``, one of `PROVIDERS`.
        absorbed: how W_UK and W_UV are stored, the two halves of kv_b_proj; None for the
            checkpoint's own values.
        compiling: what plans of it are compiled for; it changes no stored value.
    """

    weights: str
    schemes: Mapping[str, Storage]
    cache: str
    accuracy_level: int
    activations: str | None = None
    provider: str = "cpu"
    absorbed: Scheme | None = None
    compiling: Compiling = BY_DEFAULT

    def scheme(self, kind: str, layer: int | None = None) -> Storage:
        """Return how tensors of a class are stored, in one layer."""
        return self.schemes.get(f"{kind}@{layer}", self.schemes[kind])

    @property
    def has_integers(self) -> bool:
        """Whether any class of tensors is stored as integers."""
        return any(isinstance(s, Scheme) and not s.is_float for s in self.schemes.values())

    def graph_scheme(self, kind: str, layer: int | None = None) -> GraphStorage:
        """Return how a graph stores tensors of a class, in one layer.

        Raises:
            BuildError: as NVFP4, for which ONNX has no operators.
        """
        scheme = self.scheme(kind, layer)
        if isinstance(scheme, Nvfp4):
            raise BuildError(f"{kind}: no graph stores {scheme}; use --target tensorrt-llm")
        return scheme

    def table_scheme(self) -> Scheme:
        """Return how the embedding is stored.

        Raises:
            BuildError: as float8, which no kernel looks up.
        """
        scheme = self.graph_scheme("embedding")
        if isinstance(scheme, Float8):
            raise BuildError(f"embedding: cannot be stored as {scheme}; use float32 or integers")
        return scheme

    def to_dict(self) -> dict[str, object]:
        """Return the manifest's form."""
        stored = {**self.schemes, **({"absorbed": self.absorbed} if self.absorbed else {})}
        described: dict[str, object] = {
            "weights": self.weights,
            "schemes": {kind: str(scheme) for kind, scheme in sorted(stored.items())},
            "cache": self.cache,
            "accuracy_level": self.accuracy_level,
        }
        if self.activations is not None:
            described["activations"] = self.activations
        if self.provider != "cpu":
            described["provider"] = self.provider
        return described


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOptions:
    """What the command line says of precision; None where it leaves the choice to the target."""

    weights: str | None = None
    block_size: int | None = None
    symmetric: bool = True
    cache: str | None = None
    accuracy_level: int = 4
    fp8_scales: str | None = None
    activations: str | None = None
    provider: str = "cpu"
    absorbed: str = "exact"
    compiling: Compiling = BY_DEFAULT

    def refuse_absorbed(self, where: str) -> None:
        """Raise BuildError unless W_UK and W_UV keep the checkpoint's values, as ``where`` asks."""
        if self.absorbed != "exact":
            raise BuildError(
                f"--absorbed {self.absorbed}: is for --target onnx on the CPU, not for {where}; "
                "leave it out"
            )


def preset(
    weights: str,
    *,
    block_size: int = 32,
    symmetric: bool = True,
    cache: str = "fp32",
    accuracy_level: int = 4,
    fp8_scales: str | None = None,
    activations: str | None = None,
    absorbed: str = "exact",
) -> Recipe:
    """Return the recipe that the command line's ``--weights`` names.

    ``fp8_scales`` (by default one for 128 x 128 weights) and ``activations`` (by default dynamic)
    are for fp8 only. ``absorbed`` is one of `ABSORBED`, for W_UK and W_UV.

    Raises:
        BuildError: an unknown precision, a block size that the kernels do not take, or an option
            of fp8 with other weights.
    """
    if weights not in WEIGHTS:
        raise BuildError(f"weights: {weights!r} is unknown; use one of {', '.join(WEIGHTS)}")
    if cache not in CACHES:
        raise BuildError(f"cache: {cache!r} is unknown; use one of {', '.join(CACHES)}")
    if accuracy_level not in (0, 4):
        raise BuildError(f"accuracy level: {accuracy_level} is unknown; use 0 or 4")
    if absorbed not in ABSORBED:
        raise BuildError(f"absorbed: {absorbed!r} is unknown; use one of {', '.join(ABSORBED)}")
    heads = ABSORBED_INT8 if absorbed == "int8" else None
    if weights == "fp8":
        recipe = _fp8(fp8_scales or "block", activations or "dynamic", cache)
        return replace(recipe, absorbed=heads)
    for option, value in (("fp8 scales", fp8_scales), ("activations", activations)):
        if value is not None:
            raise BuildError(f"{option}: only for --weights fp8, not for {weights}; leave it out")
    if weights == "fp32":
        return Recipe(weights, dict.fromkeys(SCHEMED, FLOAT32), cache, 0, absorbed=heads)
    # In a mixed recipe every class gets a scheme of its own; until then it is int4's.
    scheme = Scheme(8 if weights == "int8" else 4, block_size, symmetric)
    # A row of the embedding is read once a token, so eight bits cost no time there.
    schemes = dict.fromkeys(SCHEMED, scheme) | {"embedding": Scheme(8, block_size, symmetric)}
    return Recipe(weights, schemes, cache, accuracy_level, absorbed=heads)


def _fp8(scales: str, activations: str, cache: str) -> Recipe:
    if scales not in FP8_SCALES:
        raise BuildError(f"fp8 scales: {scales!r} is unknown; use one of {', '.join(FP8_SCALES)}")
    scheme = Float8(per_block=scales == "block", activations=activations)
    # As in DeepSeek-V3's published weights, where both are bf16. A lookup gains nothing, and the
    # head alone costs two fifths of what all the rest does.
    schemes: dict[str, Storage] = dict.fromkeys(SCHEMED, scheme)
    schemes |= {"embedding": FLOAT32, "lm_head": FLOAT32}
    return Recipe("fp8", schemes, cache, 0, activations)
