"""What is asked of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from trtcoder.runtime.sampling.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how it is to be answered.

    Attributes:
        prompt_ids: the whole prompt, with BOS.
        params: as the user gave them.
        strip_leading_space: drop one space at the start of the answer, which a chat answer has
            because its prompt ends in "Assistant:".
        client: who asks; clients that ask at the same time get equal shares.
        salt: requests of different salt share no cached prefix.
        forced: bytes that the answer begins with. They are not part of its text, and the tokens
            that give nothing else do not count; a token may give them and go on.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    strip_leading_space: bool = False
    client: str = ""
    salt: str = ""
    forced: bytes = b""
