"""Text to token ids and token ids to bytes, read from the engine's `tokenizer.json`.

Control tokens (BOS, EOS, the fill-in-the-middle markers and everything else that is spelled like
them) exist only as ids: text that happens to spell one is encoded as text, and a control token
that the model emits has no text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from trtcoder.errors import EngineError, RequestError

# DeepSeek's markers use U+FF5C bars; some of its tokenizers also have ASCII ones, such as <|EOT|>.
_CONTROL_SPELLING = re.compile(r"<[|｜][^<>]*[|｜]>")


class TextTokenizer:
    """A byte-level BPE tokenizer that never turns user text into a control token."""

    def __init__(
        self,
        full: RustTokenizer,
        control_ids: Iterable[int] = (),
        reserved: Iterable[int] = (),
    ) -> None:
        """Wrap a `tokenizers` tokenizer.

        Args:
            full: the tokenizer as its file has it.
            control_ids: ids that are control tokens whatever their flags say; DeepSeek's file
                marks the fill-in-the-middle tokens as not special.
            reserved: ids that user text does not give either, but that have a text when the
                model emits them.
        """
        known = set(control_ids)
        added: dict[int, AddedToken] = full.get_added_tokens_decoder()
        self.control = {
            token.content: id_
            for id_, token in added.items()
            if token.special or id_ in known or _CONTROL_SPELLING.fullmatch(token.content)
        }
        # A control token may also be an entry of the vocabulary itself.
        named = {full.id_to_token(id_): id_ for id_ in known - added.keys()}
        self.control |= {text: id_ for text, id_ in named.items() if text is not None}
        self._control_ids = frozenset(self.control.values())
        self._literal = {
            id_: token.content for id_, token in added.items() if id_ not in self._control_ids
        }
        self._full, self._given = full, tuple(known)
        kept = {id_ for id_ in reserved if id_ in self._literal}
        self.control |= {self._literal[id_]: id_ for id_ in kept}
        literal = [added[id_] for id_ in sorted(self._literal.keys() - kept)]
        self._plain = _without_control_tokens(full, literal)
        self._strips = {
            token.content: (token.lstrip, token.rstrip)
            for token in added.values()
            if token.lstrip or token.rstrip
        }
        # Added to a tokenizer without the control tokens, a literal token may get another id.
        self._renumbered = {
            self._plain.token_to_id(content): id_
            for id_, content in self._literal.items()
            if id_ not in kept and self._plain.token_to_id(content) != id_
        }
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def load(cls, path: Path, control_ids: Iterable[int] = ()) -> TextTokenizer:
        """Read `tokenizer.json`.

        Raises:
            EngineError: the file is not a tokenizer, or not a byte-level one.
        """
        try:
            full = RustTokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise EngineError(
                f"{path}: not a tokenizer ({error}); build the engine again"
            ) from error
        if problem := not_byte_level(full):
            raise EngineError(f"{path}: {problem}; build the engine again")
        return cls(full, control_ids)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, which holds no control token whatever it spells.

        Raises:
            RequestError: a lone surrogate, which is not text.
        """
        try:
            ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        except TypeError as error:  # what tokenizers says of a lone surrogate
            raise RequestError("the text holds a lone surrogate; send valid Unicode") from error
        return [self._renumbered.get(id_, id_) for id_ in ids] if self._renumbered else ids

    def encode_around(self, pieces: Iterable[tuple[str, bool]]) -> list[int]:
        """Return the ids of text in pieces; those with True are spellings of control tokens.

        Control tokens take the white space beside them where the tokenizer's file says so.

        Raises:
            RequestError: a lone surrogate.
        """
        ids: list[int] = []
        text, strip = "", False
        for piece, is_control in pieces:
            if not is_control:
                text += piece
                continue
            before, after = self._strips.get(piece, (False, False))
            ids += self.encode(_stripped(text, start=strip, end=before))
            ids.append(self.control[piece])
            text, strip = "", after
        return ids + self.encode(_stripped(text, start=strip, end=False))

    def reserving(self, texts: Iterable[str]) -> TextTokenizer:
        """Return a tokenizer by which no text gives an added token that ``texts`` spell.

        Tokens of white space are left: a chat template writes them as text.
        """
        written = "\n".join(texts)
        found = [
            id_
            for id_, content in self._literal.items()
            if content in written and not content.isspace()
        ]
        return TextTokenizer(self._full, self._given, found) if found else self

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; none for control and unused ids."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._find_bytes(token)
        return found

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of ``tokens``; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def entry(self, token: int) -> str:
        """Return a token as the vocabulary has it, its bytes as letters; none for unused ids."""
        found: str | None = self._full.id_to_token(token)
        return found or ""

    def spell(self, tokens: Iterable[int]) -> str:
        """Return the text of ``tokens`` with control tokens as they are spelled, to be read.

        It is no prompt: encoded, a spelled control token is text.
        """
        spelled = {id_: text.encode() for text, id_ in self.control.items()}
        pieces = (spelled.get(token) or self.token_bytes(token) for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def _find_bytes(self, token: int) -> bytes:
        if token in self._control_ids:
            return b""
        if token in self._literal:
            return self._literal[token].encode()
        piece: str | None = self._full.id_to_token(token)
        if piece is None:  # embedding rows beyond the vocabulary
            return b""
        if not all(letter in _BYTE_OF_LETTER for letter in piece):
            return piece.encode()
        return bytes(_BYTE_OF_LETTER[letter] for letter in piece)


def not_byte_level(tokenizer: RustTokenizer) -> str | None:
    """Return why a tokenizer is not one whose ids stand for bytes, which is the only kind read."""
    found = type(tokenizer.decoder).__name__
    return None if found == "ByteLevel" else f"expected the decoder ByteLevel, found {found}"


def _without_control_tokens(full: RustTokenizer, literal: list[AddedToken]) -> RustTokenizer:
    # Shares the model's tables with `full`: this costs microseconds, not a second parse.
    plain = RustTokenizer(full.model)
    plain.normalizer = full.normalizer
    plain.pre_tokenizer = full.pre_tokenizer
    plain.add_tokens(literal)
    return plain


def _stripped(text: str, *, start: bool, end: bool) -> str:
    text = text.lstrip() if start else text
    return text.rstrip() if end else text


def _byte_letters() -> dict[str, int]:
    """Return GPT-2's alphabet, in which a byte-level vocabulary spells bytes as letters.

    Printable Latin-1 letters stand for themselves, the other bytes for U+0100 and up in order
    (openai/gpt-2, src/encoder.py, bytes_to_unicode).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(0x100) if byte not in printable)
    return letters | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()
