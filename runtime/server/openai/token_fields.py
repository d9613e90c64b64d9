"""What vLLM's clients ask of tokens, beside the fields that OpenAI's have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from trtcoder.errors import RequestError
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fields import SamplingFields

# They would change the answer, so passing them over would give a wrong one.
_REFUSED = {
    "allowed_token_ids": "hold the answer with structured_outputs",
    "bad_words": "use logit_bias",
    "logprob_token_ids": "use logprobs",
    "prompt_embeds": "send text or token ids",
    "use_beam_search": "use n or best_of",
}
_Unserved = Annotated[Any, Field(description="Refused: it is not served here.")]


class TokenFields(SamplingFields):
    """Token ids and log-probabilities that an answer tells, and a prompt that is cut."""

    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    # In log-probabilities: `token_id:N` in place of the token's text.
    return_tokens_as_token_ids: bool | None = None
    truncate_prompt_tokens: Annotated[
        int | None, Field(description="Most tokens of the prompt; -1 is the context.")
    ] = None
    truncation_side: Literal["left", "right"] | None = None
    cache_salt: Annotated[
        str | None, Field(description="Prefixes are shared among requests of the same salt only.")
    ] = None
    allowed_token_ids: _Unserved = None
    bad_words: _Unserved = None
    logprob_token_ids: _Unserved = None
    prompt_embeds: _Unserved = None
    use_beam_search: _Unserved = None

    def check(self) -> None:
        """Refuse what is not served, and what contradicts itself.

        Raises:
            RequestError: names the parameter.
        """
        for name, remedy in _REFUSED.items():
            if getattr(self, name):
                raise RequestError(f"{name}: it is not supported; {remedy}")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options: only with stream")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError("prompt_logprobs: not together with stream")
        if self.cache_salt == "":
            raise RequestError("cache_salt: it is empty; leave it out, or choose one")

    def cut(self, served: Served, ids: list[int]) -> list[int]:
        """Return as many token ids of a prompt as are asked for: its last ones, by default.

        Raises:
            RequestError: the number is out of range.
        """
        most = self.truncate_prompt_tokens
        if most is None:
            return ids
        if most == -1:
            most = served.llm.context
        if most < 1:
            raise RequestError(f"truncate_prompt_tokens is {most}; it must be at least 1, or -1")
        return ids[:most] if self.truncation_side == "right" else ids[-most:]
