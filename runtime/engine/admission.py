"""What of a request can be known to be wrong before anything is computed."""

from __future__ import annotations

from trtcoder.errors import ContextError, RequestError
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams


def check(request: Request, params: SamplingParams, vocab_size: int, context: int) -> None:
    """Refuse a request that an engine of so many tokens and such a context cannot run.

    Raises:
        RequestError: a token is out of range, or the prompt is empty.
        ContextError: the prompt is too long.
    """
    prompt = request.prompt_ids
    if not prompt:
        raise RequestError("the prompt is empty")
    if len(prompt) > context:
        raise ContextError(len(prompt), context)
    for name, ids in (
        ("the prompt", (min(prompt), max(prompt))),
        ("stop_token_ids", params.stop_token_ids),
        ("logit_bias", params.logit_bias),
    ):
        wrong = [token for token in ids if not 0 <= token < vocab_size]
        if wrong:
            raise RequestError(
                f"{name} has token id {wrong[0]}, outside the vocabulary of {vocab_size}"
            )
