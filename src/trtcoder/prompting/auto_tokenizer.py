"""An engine's tokenizer under the names that transformers' programs use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Message, Prompts


class AutoTokenizer:
    """Text to ids and back, as far as programs written for transformers need it.

    Text that spells a control token is text; `apply_chat_template` sets control tokens by id.

    Attributes:
        bos_token_id: None where the model has none.
        eos_token_id: the first of the model's end-of-sequence tokens.
    """

    def __init__(self, bundle: Bundle) -> None:
        tokens = bundle.manifest.tokens
        self._prompts = Prompts.load(bundle.folder, bundle.manifest)
        self.bos_token_id = tokens.bos
        self.eos_token_id = tokens.eos[0] if tokens.eos else None

    @classmethod
    def from_pretrained(
        cls, engine: str | Path, *, trust_remote_code: bool = False
    ) -> AutoTokenizer:
        """Read the tokenizer of an engine folder; ``trust_remote_code`` has nothing to trust.

        Raises:
            EngineError: not an engine folder, or the tokenizer cannot be read.
        """
        return cls(Bundle.load(engine, verify_hashes=False))

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, with BOS where the model wants it."""
        return self._prompts.completion(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``, without control tokens."""
        return self._prompts.tokenizer.decode(ids)

    def apply_chat_template(
        self,
        messages: Sequence[Message | Mapping[str, str]],
        *,
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """Return the ids of a conversation, ready for the next answer.

        Raises:
            RequestError: the model has no chat format, or ``add_generation_prompt`` is False.
        """
        if not add_generation_prompt:
            raise RequestError("add_generation_prompt: only True is supported")
        return self._prompts.chat(messages)
