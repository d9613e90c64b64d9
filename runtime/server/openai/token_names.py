"""How answers in OpenAI's form tell of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcoder.runtime.requests.events import PromptLogprobs, TokenLogprob
from trtcoder.runtime.server.engines import Served

# A token, its log-probability, and the most likely ones in its place.
Told = tuple[int | None, float | None, tuple[TokenLogprob, ...]]


class TokenNames:
    """Writes tokens by their text, or as ``token_id:N`` where a request asks for that."""

    def __init__(self, served: Served, *, as_ids: bool = False) -> None:
        """Take the engine."""
        self._tokenizer = served.llm.tokenizer
        self._as_ids = as_ids

    def name(self, token: int) -> str:
        """Return a token's name; bytes that are no text by themselves become U+FFFD."""
        return f"token_id:{token}" if self._as_ids else self._tokenizer.decode([token])

    def width(self, token: int) -> int:
        """Return how many characters begin in a token; one of several tokens counts once."""
        return sum(byte & 0xC0 != 0x80 for byte in self._tokenizer.token_bytes(token))

    def is_text(self, token: int) -> bool:
        """Return whether a token has text; control tokens have none."""
        return bool(self._tokenizer.token_bytes(token))

    def completion(self, tokens: Sequence[Told], at: int) -> dict[str, Any]:
        """Return the log-probabilities of a completion whose text begins at character ``at``."""
        offsets = []
        for token, _, _ in tokens:
            offsets.append(at)
            at += 0 if token is None else self.width(token)
        return {
            "tokens": ["" if token is None else self.name(token) for token, _, _ in tokens],
            "token_logprobs": [value for _, value, _ in tokens],
            "top_logprobs": [self._top(*each) for each in tokens],
            "text_offset": offsets,
        }

    def chat(self, tokens: Sequence[tuple[int, float, tuple[TokenLogprob, ...]]]) -> dict[str, Any]:
        """Return the log-probabilities of a chat's answer."""
        return {
            "content": [
                {
                    **self._entry(token, value),
                    "top_logprobs": [self._entry(*each) for each in top],
                }
                for token, value, top in tokens
            ]
        }

    def prompt(
        self, ids: Sequence[int], found: PromptLogprobs, count: int
    ) -> list[dict[str, Any] | None]:
        """Return the log-probabilities of a prompt as vLLM writes them: by id, the first has none.

        Args:
            ids: the prompt.
            found: of its tokens.
            count: how many of the most likely tokens are told beside the prompt's own.
        """
        listed: list[dict[str, Any] | None] = []
        for token, value, top in zip(ids, found.tokens, found.top, strict=True):
            if value is None:
                listed.append(None)
                continue
            ranks = {each: rank for rank, (each, _) in enumerate(top, start=1)}
            values = {token: value, **dict(top[:count])}
            listed.append(
                {
                    str(each): {
                        "logprob": amount,
                        "rank": ranks.get(each),
                        "decoded_token": self._tokenizer.decode([each]),
                    }
                    for each, amount in values.items()
                }
            )
        return listed

    def _top(
        self, token: int | None, value: float | None, top: tuple[TokenLogprob, ...]
    ) -> dict[str, float] | None:
        if token is None or value is None:
            return None
        # The token that was chosen is always among them.
        return {self.name(each): amount for each, amount in ((token, value), *top)}

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token)
        text = self.name(token) if self._as_ids else data.decode("utf-8", "replace")
        return {"token": text, "logprob": value, "bytes": list(data)}
