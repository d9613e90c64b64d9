"""What precision each part of a model is stored in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtcoder.calib.scheme import FLOAT32, Scheme
from trtcoder.errors import BuildError

WEIGHTS = ("fp32", "int8", "int4", "mixed")
CACHES = ("fp32", "int8")
# The classes of tensors that have a scheme. The router, the norms and the absorbed projections
# W_UK and W_UV keep the checkpoint's values in every recipe.
SCHEMED = ("embedding", "attention", "mlp", "experts_gate_up", "experts_down", "lm_head")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Schemes by tensor class, the cache's type, and the kernels' accuracy level.

    Attributes:
        weights: the precision's name, by which the certificate's gates are chosen.
        schemes: one for each class of `SCHEMED`; ``class@3`` overrides it for layer 3.
        cache: ``fp32`` or ``int8``.
        accuracy_level: 4 lets the kernels round activations to int8, block by block, which is
            about twice as fast; 0 keeps them float32.
    """

    weights: str
    schemes: Mapping[str, Scheme]
    cache: str
    accuracy_level: int

    def scheme(self, kind: str, layer: int | None = None) -> Scheme:
        """Return how tensors of a class are stored, in one layer."""
        return self.schemes.get(f"{kind}@{layer}", self.schemes[kind])

    def to_dict(self) -> dict[str, object]:
        """Return the manifest's form."""
        return {
            "weights": self.weights,
            "schemes": {kind: str(scheme) for kind, scheme in sorted(self.schemes.items())},
            "cache": self.cache,
            "accuracy_level": self.accuracy_level,
        }


def preset(
    weights: str,
    *,
    block_size: int = 32,
    symmetric: bool = True,
    cache: str = "fp32",
    accuracy_level: int = 4,
) -> Recipe:
    """Return the recipe that the command line's ``--weights`` names.

    Raises:
        BuildError: an unknown precision, or a block size that the kernels do not take.
    """
    if weights not in WEIGHTS:
        raise BuildError(f"weights: {weights!r} is unknown; use one of {', '.join(WEIGHTS)}")
    if cache not in CACHES:
        raise BuildError(f"cache: {cache!r} is unknown; use one of {', '.join(CACHES)}")
    if accuracy_level not in (0, 4):
        raise BuildError(f"accuracy level: {accuracy_level} is unknown; use 0 or 4")
    if weights == "fp32":
        return Recipe(weights, dict.fromkeys(SCHEMED, FLOAT32), cache, 0)
    # In a mixed recipe every class gets a scheme of its own; until then it is int4's.
    scheme = Scheme(8 if weights == "int8" else 4, block_size, symmetric)
    # A row of the embedding is read once a token, so eight bits cost no time there.
    schemes = dict.fromkeys(SCHEMED, scheme) | {"embedding": Scheme(8, block_size, symmetric)}
    return Recipe(weights, schemes, cache, accuracy_level)
