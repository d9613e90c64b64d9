"""The forms in which a library's user gives prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Message


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str


class TokensPrompt(TypedDict):
    """A prompt as token ids."""

    prompt_token_ids: Sequence[int]


Prompt = str | Sequence[int] | TextPrompt | TokensPrompt
Chat = Sequence[Message | Mapping[str, str]]
# Text, or None and ids.
TextOrIds = tuple[str | None, Sequence[int]]


def as_prompts(
    prompts: Prompt | Sequence[Prompt] | None,
    token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
) -> list[TextOrIds]:
    """Return each prompt as text or as ids; one that stands alone is a list of one.

    Raises:
        RequestError: neither or both are given, or something is no prompt.
    """
    if (prompts is None) == (token_ids is None):
        raise RequestError("give either prompts or prompt_token_ids")
    given: object = prompts if token_ids is None else token_ids
    if isinstance(given, str | Mapping) or _is_ids(given):
        given = [given]
    if not isinstance(given, Sequence):
        raise RequestError(f"prompts: expected text, token ids or a list of them, found {given!r}")
    return [_one(value, f"prompts[{index}]") for index, value in enumerate(given)]


def as_messages(messages: Chat | Sequence[Chat]) -> list[Chat]:
    """Return conversations; one that stands alone is a list of one."""
    if not messages:
        raise RequestError("messages: a chat needs at least one message")
    if isinstance(messages[0], Message | Mapping):
        return [cast(Chat, messages)]
    return [cast(Chat, chat) for chat in messages]


def _one(value: object, place: str) -> TextOrIds:
    if isinstance(value, str):
        return value, ()
    if isinstance(value, Mapping):
        if set(value) == {"prompt"} and isinstance(value["prompt"], str):
            return value["prompt"], ()
        if set(value) == {"prompt_token_ids"}:
            value = value["prompt_token_ids"]
    if not _is_ids(value):
        raise RequestError(f"{place}: expected text or token ids, found {value!r}")
    return None, [int(token) for token in cast(Sequence[int], value)]


def _is_ids(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(hasattr(token, "__index__") and not isinstance(token, bool) for token in value)
    )
