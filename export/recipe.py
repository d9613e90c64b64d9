"""What precision each part of a model is stored in."""

from __future__ import annotations

from dataclasses import dataclass

from trtcoder.calib.scheme import FLOAT32, Scheme
from trtcoder.errors import BuildError

WEIGHTS = ("fp32", "int8", "int4")
CACHES = ("fp32", "int8")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Schemes by tensor class, the cache's type, and the kernels' accuracy level.

    ``accuracy_level`` 4 lets the kernels round activations to int8, block by block, which is
    about twice as fast; 0 keeps them float32. The router, the norms and the absorbed projections
    W_UK and W_UV are float32 in every recipe.
    """

    weights: str
    linear: Scheme
    experts: Scheme
    embedding: Scheme
    lm_head: Scheme
    cache: str
    accuracy_level: int

    def to_dict(self) -> dict[str, object]:
        """Return the manifest's form."""
        return {
            "weights": self.weights,
            "linear": str(self.linear),
            "experts": str(self.experts),
            "embedding": str(self.embedding),
            "lm_head": str(self.lm_head),
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
        return Recipe(weights, FLOAT32, FLOAT32, FLOAT32, FLOAT32, cache, 0)
    scheme = Scheme(8 if weights == "int8" else 4, block_size, symmetric)
    # A row of the embedding is read once a token, so eight bits cost no time there.
    embedding = Scheme(8, block_size, symmetric)
    return Recipe(weights, scheme, scheme, embedding, scheme, cache, accuracy_level)
