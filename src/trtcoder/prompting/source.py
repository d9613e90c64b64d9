"""What a checkpoint's tokenizer files say about prompts: special tokens, chat, capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from trtcoder.bundle.manifest import (
    Capabilities,
    ChatFormat,
    SamplingDefaults,
    TemplateInfo,
    Tokens,
)
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.checkpoint.side_files import read_bytes, read_object, read_text
from trtcoder.errors import BuildError, CheckpointError
from trtcoder.model.architecture import ModelConfig
from trtcoder.prompting.chat_source import TEMPLATE_FILE, find_template, read_chat
from trtcoder.prompting.generation_config import (
    GENERATION_FILE,
    end_tokens,
    read_generation_config,
    sampling_defaults,
)
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.tokenizer import TextTokenizer, not_byte_level

FIM_TOKENS = {
    "fim_begin": "<｜fim▁begin｜>",
    "fim_hole": "<｜fim▁hole｜>",
    "fim_end": "<｜fim▁end｜>",
}

# DeepSeek says of the 236B models that they were not trained to fill in the middle.
NOT_TRAINED_FOR_FIM = ("DeepSeek-Coder-V2",)

TOKENIZER_FILE, SETTINGS_FILE = "tokenizer.json", "tokenizer_config.json"
# transformers' SpecialTokensMixin.SPECIAL_TOKENS_ATTRIBUTES: what a chat template may name.
_NAMED_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prompting:
    """What the manifest will say about prompts, and what a build should tell the user.

    ``folder`` is the checkpoint's; `Manifest` explains the other fields.
    """

    folder: Path
    model_name: str
    tokens: Tokens
    chat_format: ChatFormat | None
    chat_template: TemplateInfo | None
    chat_refusal: str | None
    capabilities: Capabilities
    sampling: SamplingDefaults
    notes: tuple[str, ...]

    def prompts(self) -> Prompts:
        """Return the prompts of an engine of this checkpoint, before there is one."""
        path = self.folder / TOKENIZER_FILE
        tokenizer = TextTokenizer(_read_tokenizer(path), self.tokens.ids())
        settings = _settings(self.folder / SETTINGS_FILE)
        text = find_template(self.folder, settings)[0] if self.chat_template else None
        return Prompts(self, tokenizer, text)


def read_prompting(checkpoint: Checkpoint, fim: bool | None = None) -> Prompting:
    """Read the tokenizer's files; ``fim`` overrides what is known of the model.

    Raises:
        CheckpointError: a file is missing or malformed, or no token ends an answer.
        BuildError: FIM is asked for and the tokenizer has no FIM tokens.
    """
    folder, config = checkpoint.folder, checkpoint.config
    path = folder / TOKENIZER_FILE
    tokenizer = _read_tokenizer(path)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > config.vocab_size:
        raise CheckpointError(
            f"{path}: has {size} tokens, config.json says {config.vocab_size}; they are of "
            "different models"
        )
    settings = _settings(folder / SETTINGS_FILE)
    named = _named_tokens(folder, settings)
    generation = read_generation_config(folder)
    sampling, notes = sampling_defaults(generation)
    ids = {role: tokenizer.token_to_id(text) for role, text in FIM_TOKENS.items()}
    has_fim_tokens = None not in ids.values()
    if fim and not has_fim_tokens:
        raise BuildError(f"{path}: has no {', '.join(FIM_TOKENS.values())}, which --fim needs")
    bos, add_bos = _bos(config, settings, tokenizer.token_to_id(named.get("bos_token", "")), notes)
    ends = end_tokens(folder / GENERATION_FILE, generation, config.vocab_size)
    tokens = Tokens(
        bos=bos,
        eos=tuple(dict.fromkeys((*config.eos_token_ids, *ends))),
        **ids,
        add_bos=add_bos,
    )
    if not tokens.eos:
        raise CheckpointError(
            f"{folder}: neither config.json nor {GENERATION_FILE} has an eos_token_id, so no "
            "answer would end; add it to config.json"
        )
    if fim is None:
        fim = has_fim_tokens and config.published_name not in NOT_TRAINED_FOR_FIM
    notes += [
        f"{SETTINGS_FILE}: {name} {text!r} is not in {TOKENIZER_FILE}; it is text to the model"
        for name, text in named.items()
        if tokenizer.token_to_id(text) is None
    ]
    chat = read_chat(folder, settings, named, TextTokenizer(tokenizer, tokens.ids()))
    return Prompting(
        folder,
        checkpoint.name,
        tokens,
        chat.parts,
        chat.template,
        chat.refusal,
        Capabilities(
            completion=True, fim=fim, chat=chat.parts is not None or chat.template is not None
        ),
        sampling,
        (*notes, *chat.notes),
    )


def prompt_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a checkpoint's folder that an engine needs for prompts.

    Of the chat templates it is the one that is used, whichever file it comes from.

    Raises:
        CheckpointError: a file cannot be read.
    """
    names = (TOKENIZER_FILE, SETTINGS_FILE, GENERATION_FILE)
    found = {name: read_bytes(folder / name) for name in names if (folder / name).is_file()}
    text, _ = find_template(folder, _settings(folder / SETTINGS_FILE))
    return found if text is None else {**found, TEMPLATE_FILE: text.encode()}


def _read_tokenizer(path: Path) -> Tokenizer:
    text = read_text(path)
    try:
        found = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: is not a tokenizer file: {error}") from error
    if problem := not_byte_level(found):
        raise CheckpointError(f"{path}: {problem}; use the model's own tokenizer.json")
    return found


def _bos(
    config: ModelConfig, settings: Mapping[str, object], named: int | None, notes: list[str]
) -> tuple[int | None, bool]:
    """Return the token that begins a prompt, and whether one does.

    The tokenizer puts it there, so the token that its settings name goes before config.json's.
    """
    bos = config.bos_token_id if named is None else named
    if config.bos_token_id not in (None, bos):
        notes.append(
            f"config.json's bos_token_id is {config.bos_token_id}, {SETTINGS_FILE} names {bos}, "
            "which is used"
        )
    add_bos = settings.get("add_bos_token")
    if add_bos and bos is None:
        notes.append(f"{SETTINGS_FILE} has add_bos_token, but there is no BOS; none is added")
    return bos, bos is not None and (add_bos is None or bool(add_bos))


def _named_tokens(folder: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Return the texts of the special tokens that have a name, as transformers finds them."""
    path = folder / "special_tokens_map.json"
    older = {} if "added_tokens_decoder" in settings else _settings(path)
    found = {name: _text(settings.get(name)) or _text(older.get(name)) for name in _NAMED_TOKENS}
    return {name: text for name, text in found.items() if text}


def _settings(path: Path) -> dict[str, object]:
    return read_object(path) if path.is_file() else {}


def _text(token: object) -> str:
    """Return a special token's text: a string, or an object with its ``content``."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
