"""One answer: from sampled tokens to text, and to its end."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.constraints.matcher import Matcher
from trtcoder.runtime.requests.events import Chunk, FinishReason
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.sampling.sampler import Logits, Sample, Sampler
from trtcoder.runtime.text.detokenizer import Detokenizer
from trtcoder.runtime.text.forced_beginning import ForcedBeginning
from trtcoder.runtime.text.vocabulary import Vocabulary


class Answer:
    """What one answer has come to.

    Attributes:
        index: its number among those to one prompt.
        sampler: chooses its tokens.
        finish_reason: why it ended; None before.
    """

    def __init__(
        self,
        request: Request,
        params: SamplingParams,
        index: int,
        tokenizer: TextTokenizer,
        eos: frozenset[int],
        vocab_size: int,
        vocabulary: Callable[[], Vocabulary],
        matcher: Matcher | None = None,
    ) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._params = params
        self._eos = frozenset[int]() if params.ignore_eos else eos
        self._stop_ids = frozenset(params.stop_token_ids)
        self.sampler = Sampler(
            params,
            request.prompt_ids,
            vocab_size,
            answer=index,
            ends=self._eos | self._stop_ids,
            matcher=matcher,
        )
        self._text = Detokenizer(
            tokenizer,
            tuple(params.stop),
            strip_leading_space=request.strip_leading_space,
            include_stop=params.include_stop,
            min_tokens=params.min_tokens,
        )
        self._tokenizer = tokenizer
        self._forced = ForcedBeginning(request.forced, vocabulary)
        self._count = 0

    def sample(self, logits: Logits, best: int) -> Sample:
        """Choose the next token; arguments and errors as of `Sampler.sample`."""
        return self.sampler.sample(logits, self._forced.allowed(), best)

    def fitting(self, draft: list[int]) -> list[int]:
        """Return the beginning of a draft that this answer could take and go on behind."""
        if self._forced.rest:
            return []
        most = self._params.max_tokens
        count = len(draft) if most is None else max(most - self._count - 1, 0)
        fits = list(takewhile(lambda token: not self._ends(token), draft[:count]))
        return self.sampler.fitting(fits)

    def _ends(self, token: int) -> bool:
        return token in self._eos or token in self._stop_ids

    def accept(self, sample: Sample, *, is_last: bool) -> Chunk:
        """Take a sampled token; ``is_last`` where the context has no room for another."""
        token = sample.token
        text = ""
        reason: FinishReason | None = None
        stop: str | int | None = None
        behind = None
        if self._forced.rest:
            behind = self._forced.take(self._tokenizer.token_bytes(token))
        if behind is None or behind:
            self._count += 1
        if behind == b"":
            pass
        elif token in self._eos:
            reason = "stop"
        elif token in self._stop_ids:
            reason, stop = "stop", token
        else:
            text = self._text.push(token) if behind is None else self._text.push_bytes(behind)
            if self._text.stopped_by is not None:
                reason, stop = "stop", self._text.stopped_by
        if reason is None and self.sampler.is_over:
            reason = "stop"
        elif reason is None and self._count == self._params.max_tokens:
            reason = "length"
        elif reason is None and is_last:
            reason = "context"
        if reason is not None:
            text += self._text.finish()
        self.finish_reason = reason
        return Chunk(text, token, self.index, reason, stop, sample.logprob, sample.top_logprobs)

    def cut(self) -> Chunk:
        """Return the end of an answer for which there is no more room."""
        self.finish_reason = "context"
        return Chunk(self._text.finish(), None, self.index, "context")
