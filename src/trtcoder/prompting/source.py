"""What a checkpoint's tokenizer files say about prompts: special tokens, chat, capabilities."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from trtcoder.bundle.manifest import Capabilities, ChatFormat, Tokens
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError, CheckpointError
from trtcoder.prompting.chat_template import derive_chat_format

FIM_TOKENS = {
    "fim_begin": "<｜fim▁begin｜>",
    "fim_hole": "<｜fim▁hole｜>",
    "fim_end": "<｜fim▁end｜>",
}

# DeepSeek says of the 236B models that they were not trained to fill in the middle.
NOT_TRAINED_FOR_FIM = ("DeepSeek-Coder-V2",)


@dataclass(frozen=True, slots=True)
class Prompting:
    """What the manifest says about prompts, and what a build should tell the user."""

    tokens: Tokens
    chat_format: ChatFormat | None
    capabilities: Capabilities
    notes: tuple[str, ...]


def read_prompting(checkpoint: Checkpoint, fim: bool | None = None) -> Prompting:
    """Read tokenizer.json and tokenizer_config.json; ``fim`` overrides what is known of the model.

    Raises:
        CheckpointError: a tokenizer file is missing or malformed.
        BuildError: FIM is asked for and the tokenizer has no FIM tokens.
    """
    path = checkpoint.folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; copy it from the model's repository")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: is not a tokenizer file: {error}") from error
    settings = _settings(checkpoint.folder / "tokenizer_config.json")
    config = checkpoint.config
    ids = {role: tokenizer.token_to_id(text) for role, text in FIM_TOKENS.items()}
    too_large = tokenizer.get_vocab_size(with_added_tokens=True) > config.vocab_size
    if too_large:
        raise CheckpointError(
            f"{path}: has {tokenizer.get_vocab_size()} tokens, config.json says "
            f"{config.vocab_size}; they are of different models"
        )
    tokens = Tokens(
        bos=config.bos_token_id,
        eos=config.eos_token_ids,
        **ids,
        add_bos=bool(settings.get("add_bos_token", config.bos_token_id is not None)),
    )
    notes: list[str] = []
    has_fim_tokens = None not in ids.values()
    if fim and not has_fim_tokens:
        raise BuildError(f"{path}: has no {', '.join(FIM_TOKENS.values())}, which --fim needs")
    if fim is None:
        fim = has_fim_tokens and config.published_name not in NOT_TRAINED_FOR_FIM
    chat = None
    template = settings.get("chat_template")
    if isinstance(template, str):
        try:
            chat = derive_chat_format(
                template, _text(settings.get("bos_token")), _text(settings.get("eos_token"))
            )
        except BuildError as error:
            notes.append(f"no chat: the checkpoint's chat_template is not supported: {error}")
    else:
        notes.append("no chat: the checkpoint has no chat_template")
    return Prompting(
        tokens,
        chat,
        Capabilities(completion=True, fim=fim, chat=chat is not None),
        tuple(notes),
    )


def _settings(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return settings


def _text(token: object) -> str:
    """Return a special token's text: a string, or an object with its ``content``."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
