"""What transformers makes of a model whose output matrix is tied to its embedding.

As `PreTrainedModel.tie_weights` of transformers 5.23: the configuration ties the two, and what is
stored decides.
"""

from __future__ import annotations

import numpy as np

from trtcoder.checkpoint.shard import Stored
from trtcoder.model.architecture import ModelConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_ROWS = 4096


def resolve_head(
    config: ModelConfig, tensors: dict[str, Stored]
) -> tuple[ModelConfig, dict[str, Stored], tuple[str, ...]]:
    """Return configuration and tensors that agree with each other, and a note of what was done.

    Raises:
        CheckpointError: a shard cannot be read.
    """
    if not config.tie_word_embeddings or HEAD not in tensors:
        return config, tensors, ()
    others = {name: stored for name, stored in tensors.items() if name != HEAD}
    if EMBEDDING not in tensors:
        note = f"{HEAD} is stored and {EMBEDDING} is not; they are tied, so the one serves as both"
        return config, {EMBEDDING: tensors[HEAD], **others}, (note,)
    if _equal(tensors[EMBEDDING], tensors[HEAD]):
        return config, others, (f"{HEAD} is stored though it is tied, and equals {EMBEDDING}",)
    note = (
        f"config.json ties {HEAD} to {EMBEDDING}, but both are stored and differ; they are not "
        "tied, as transformers reads them"
    )
    return config.untied(), tensors, (note,)


def _equal(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    for start in range(0, one.shape[0] if one.shape else 1, _ROWS):
        rows = slice(start, start + _ROWS)
        # As bits, or one that is not a number would differ from itself.
        if not np.array_equal(one.read(rows).view(np.uint8), other.read(rows).view(np.uint8)):
            return False
    return True
