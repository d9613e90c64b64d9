"""How tokens are chosen, in llama-server's words."""

from __future__ import annotations

from typing import Any

from trtcoder.runtime.sampling.params import SamplingParams


def generation_settings(params: SamplingParams, *, seed: int = -1) -> dict[str, Any]:
    """Return the settings of parameters that are resolved; a ``seed`` of -1 is drawn anew."""
    limit = -1 if params.max_tokens is None else params.max_tokens
    return {
        "seed": seed,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repeat_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "stop": list(params.stop),
        "max_tokens": limit,
        "n_predict": limit,
        "ignore_eos": params.ignore_eos,
        "logit_bias": [{"token": token, "bias": bias} for token, bias in params.logit_bias.items()],
        "n_probs": params.logprobs or 0,
    }
