"""Constraints to matchers, for one engine's tokens."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trtcoder.errors import DependencyError, RequestError
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.constraints.constraint import Constraint
from trtcoder.runtime.constraints.matcher import Matcher

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT = 64
# llguidance's measure of a grammar's size. A step under one of this size takes some 30 ms.
_FUEL = 200_000
_LONGEST_ERROR = 400


class ConstraintCompiler:
    """Compiles constraints and keeps the last ones. Any thread may use it.

    Compiling takes milliseconds, for large schemas much longer; `matcher` of what was compiled
    before takes microseconds.
    """

    def __init__(self, tokenizer: TextTokenizer, vocab_size: int, eos: Sequence[int]) -> None:
        self._text = tokenizer
        self._vocab_size = vocab_size
        # Some token must end an answer: without one of the model's, one that has no logit.
        self._eos = list(eos) or [vocab_size]
        self._tokens: LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[str, bool], LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, constraint: Constraint, *, spaced: bool = False) -> Matcher:
        """Return a matcher at the start of an answer.

        Args:
            constraint: what the answer must be.
            spaced: one space stands before it, which is no part of it.

        Raises:
            DependencyError: llguidance is not installed.
            RequestError: the constraint is malformed, or asks for what cannot be held.
        """
        key = constraint.grammar, spaced
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        if found is None:
            found = self._compile(constraint, spaced)
            with self._lock:
                self._compiled[key] = found
                while len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
        return Matcher(found.deep_copy(), constraint.source, self._vocab_size)

    def _compile(self, constraint: Constraint, spaced: bool) -> LLMatcher:
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError as error:
            raise DependencyError(
                "llguidance is not installed, which constraints need; "
                "run pip install 'trtcoder[serve]'"
            ) from error
        grammars = [_as_lark(each, constraint.source) for each in constraint.grammars()]
        if spaced:
            grammars.insert(0, {"name": "answer", "lark_grammar": 'start: " " @body\n'})
        found = LLMatcher(
            self._tokenizer(),
            json.dumps({"grammars": grammars}),
            log_level=0,
            limits=LLParserLimits(initial_lexer_fuel=_FUEL, verbose_errors=False),
        )
        # What no text has, and what is too large to go on with, shows at the first tokens.
        if not found.is_error() and not any(found.compute_bitmask()):
            raise RequestError(f"{constraint.source}: no text has this form")
        begun = found.deep_copy()
        _take_first(begun)
        for each in (found, begun):
            if each.is_error():
                raise RequestError(f"{constraint.source}: {_reason(each)}")
        return found

    def _tokenizer(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        with self._lock:
            if self._tokens is None:
                wrapped = _Vocabulary(self._text, self._vocab_size, self._eos)
                self._tokens = LLTokenizer(
                    wrapped,  # type: ignore[arg-type]
                    n_vocab=len(wrapped.tokens),
                    eos_token=self._eos,
                )
            return self._tokens


def _reason(matcher: LLMatcher) -> str:
    found = matcher.get_error().replace("<non-verbose/>", "").strip()[:_LONGEST_ERROR]
    return "no text has this form" if found.startswith("NoExtension") else found


def _take_first(matcher: LLMatcher) -> None:
    """Go on by some token that may follow, and find what may follow it."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    if not matcher.is_error():
        matcher.consume_token(int(bits.argmax()))
        matcher.compute_bitmask()


def _as_lark(grammar: dict[str, Any], source: str) -> dict[str, Any]:
    if "regex" in grammar:
        return {"name": grammar["name"], "lark_grammar": _of_regex(grammar["regex"], source)}
    if "gbnf" in grammar:
        return {"name": grammar["name"], "lark_grammar": _of_gbnf(grammar["gbnf"], source)}
    return grammar


def _of_regex(pattern: str, source: str) -> str:
    from llguidance import regex_to_lark

    try:
        # Digits are 0 to 9, as whoever writes one means them, and not those of all scripts.
        return f"start: /{regex_to_lark(pattern, 'd')}/\n"
    except UnicodeEncodeError as error:
        raise RequestError(f"{source}: the pattern holds a lone surrogate") from error


def _of_gbnf(grammar: str, source: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return gbnf_to_lark(grammar)
    except Exception as error:  # its errors have no class of their own, and it may run off the end
        raise RequestError(f"{source}: {str(error) or type(error).__name__}") from error


class _Vocabulary:
    """A tokenizer as llguidance's `TokenizerWrapper` shows it; control tokens have no bytes."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer, vocab_size: int, eos: Sequence[int]) -> None:
        self.eos_token_id = eos[0]
        self.special_token_ids = list(eos)
        size = max(vocab_size, *eos) + 1 if max(eos) >= vocab_size else vocab_size
        ends = set(eos)
        self.tokens = [b"" if id_ in ends else tokenizer.token_bytes(id_) for id_ in range(size)]
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)
