"""transformers' DeepSeek-V2, after checking that it can be a reference."""

from __future__ import annotations

import math
from typing import Any

from trtcoder.errors import DependencyError

TRANSFORMERS = "5.23.0"
_REMEDY = "install it with `pip install 'trtcoder[verify]'`"


def import_modules() -> Any:
    """Return the module of transformers' DeepSeek-V2.

    Raises:
        DependencyError: torch or transformers is missing, or transformers is not the one that was
            checked.
    """
    try:
        import torch  # noqa: F401
        import transformers
        from transformers.models.deepseek_v2 import modeling_deepseek_v2
    except ImportError as error:
        raise DependencyError(f"{error.name} is not installed; {_REMEDY}") from error
    if transformers.__version__ != TRANSFORMERS:
        raise DependencyError(
            f"transformers {transformers.__version__} is installed; only {TRANSFORMERS} was "
            f"checked as a reference; {_REMEDY}"
        )
    check_softmax_scale(modeling_deepseek_v2)
    return modeling_deepseek_v2


def check_softmax_scale(modules: Any) -> None:
    """Raise DependencyError unless attention's softmax scale carries YaRN's mscale squared.

    transformers before 5.15.0 leaves it out, which changes every score by a factor of 1.6 in
    Lite. The sizes are Lite's; the answer was worked out by hand.
    """
    import torch

    config = modules.DeepseekV2Config(
        hidden_size=16,
        num_attention_heads=1,
        max_position_embeddings=163840,
        q_lora_rank=None,
        rope_scaling={
            "type": "yarn",
            "factor": 40,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
        },
    )
    with torch.device("meta"):
        found = float(modules.DeepseekV2Attention(config, 0).scaling)
    expected = 192**-0.5 * (0.0707 * math.log(40) + 1) ** 2
    if not math.isclose(found, expected, rel_tol=1e-6):
        raise DependencyError(
            f"transformers' attention scales scores by {found:.6f} where DeepSeek-V2 has "
            f"{expected:.6f}: it leaves out YaRN's mscale squared; {_REMEDY}"
        )
