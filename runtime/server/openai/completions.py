"""`/v1/completions`, with ``suffix`` for filling in the middle, and DeepSeek's `/beta` twin."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtcoder.errors import RequestError
from trtcoder.prompting.filling import Hole
from trtcoder.runtime.requests.async_generation import AsyncGeneration
from trtcoder.runtime.requests.events import Chunk, PromptLogprobs
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.server.document.errors import SSE, answers
from trtcoder.runtime.server.document.openai import Completion
from trtcoder.runtime.server.engines import Served
from trtcoder.runtime.server.fim.filling import Filling, start_filling
from trtcoder.runtime.server.fim.options import FimOptions
from trtcoder.runtime.server.fim.rendered import rendered_hole
from trtcoder.runtime.server.merged import merge
from trtcoder.runtime.server.openai.token_fields import TokenFields
from trtcoder.runtime.server.openai.token_names import TokenNames, Told
from trtcoder.runtime.server.openai.usage import StreamUsage, usage_of
from trtcoder.runtime.server.service import Service, finish
from trtcoder.runtime.server.streams import DONE, EventForm, event, unless_disconnected

router = APIRouter(tags=["completions"])


class CompletionRequest(TokenFields):
    """A prompt or several, as text or token ids; with ``suffix`` the hole between the two."""

    prompt: str | list[int] | list[str] | list[list[int]] = ""
    suffix: str | None = None
    echo: bool | None = False
    logprobs: int | bool | None = None
    best_of: int | None = None
    trtcoder: FimOptions | None = None


@dataclass(slots=True)
class _Asked:
    """One prompt of a request, and its choices so far."""

    generation: AsyncGeneration | Filling
    first_index: int
    text: str
    ids: Sequence[int]
    choices: dict[int, _Choice] = field(default_factory=dict)


@dataclass(slots=True)
class _Choice:
    text: str = ""
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    ids: list[int] = field(default_factory=list)
    tokens: list[Told] = field(default_factory=list)
    logprob: float = 0.0

    def add(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.finish_reason, self.stop_reason = finish(chunk.finish_reason), chunk.stop_reason
        if chunk.token is not None:
            self.ids.append(chunk.token)
        if chunk.logprob is not None:
            self.tokens.append((chunk.token, chunk.logprob, chunk.top_logprobs))
            self.logprob += chunk.logprob


@router.post("/v1/completions", responses=answers(Completion, stream=SSE))
@router.post("/beta/completions", responses=answers(Completion, stream=SSE))
@router.post("/beta/v1/completions", include_in_schema=False)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a prompt, or fill in the middle."""
    service = Service.of(request)
    served = service.engines.get(body.model)
    params, count = _params(body, service, served)
    asked: list[_Asked] = []
    headers: dict[str, str] = {}
    try:
        for prompt in _prompts(body):
            first = len(asked) * count
            hole = _hole(body, served, service, prompt)
            if hole is not None:
                filling = await start_filling(
                    service, served, request, hole, params, body.trtcoder,
                    asked_tokens=body.max_tokens, salt=body.cache_salt or "",
                )  # fmt: skip
                headers |= filling.headers
                asked.append(_Asked(filling, first, hole.prefix, filling.prompt.ids))
                continue
            ids, text = _encoded(served, body, prompt)
            generation = await service.start(
                served, request, ids, params, salt=body.cache_salt or ""
            )
            asked.append(_Asked(generation, first, text, ids))
        answer = _Answer(served, body, asked)
        if body.stream:
            stream = service.stream(_frames(answer))
            stream.headers.update(headers)
            return stream
        whole = await unless_disconnected(request, _whole(answer, count))
        return JSONResponse(whole, headers=headers)
    except BaseException:
        for each in asked:
            each.generation.close()
        raise


def _params(
    body: CompletionRequest, service: Service, served: Served
) -> tuple[SamplingParams, int]:
    """Return the sampler's parameters, and how many choices a prompt is given."""
    body.check()
    count = 1 if body.n is None else body.n
    best_of = count if body.best_of is None else body.best_of
    if best_of < count:
        raise RequestError(f"best_of is {best_of}; it must be at least n, {count}")
    if best_of > count and body.stream:
        raise RequestError("best_of: with stream it must not be larger than n")
    if body.suffix is not None and body.echo:
        raise RequestError("echo: not together with suffix")
    logprobs = (1 if body.logprobs else None) if isinstance(body.logprobs, bool) else body.logprobs
    more: dict[str, Any] = {"n": best_of, "logprobs": logprobs}
    if best_of > count and logprobs is None:
        more["logprobs"] = 0
    if body.prompt_logprobs is not None:
        more["prompt_logprobs"] = body.prompt_logprobs
    if body.echo and logprobs is not None:
        more["prompt_logprobs"] = max(logprobs, body.prompt_logprobs or 0)
    asked = body.max_tokens
    if asked == 0 and body.echo:
        asked = 1  # its prompt is what is wanted
    return body.params(service.limit(served, asked), **more), count


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    given = body.prompt
    one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    listed: list[Any] = [given] if one else list(given)
    if not listed:
        raise RequestError("prompt: there is none")
    return listed


def _hole(
    body: CompletionRequest, served: Served, service: Service, prompt: str | list[int]
) -> Hole | None:
    """Return the hole that a prompt has by ``suffix``, or by markers that a client has written."""
    if body.suffix is not None:
        if not isinstance(prompt, str):
            raise RequestError("prompt: with suffix it must be text")
        return Hole(prompt, body.suffix)
    if isinstance(prompt, str) and not body.echo:
        hole = rendered_hole(served, service.settings, prompt)
        if hole is not None:
            return hole
    if body.trtcoder is not None:
        raise RequestError("trtcoder: only where a middle is filled in; give a suffix")
    return None


def _encoded(
    served: Served, body: CompletionRequest, prompt: str | list[int]
) -> tuple[list[int], str]:
    """Return the ids of a prompt, and its text for ``echo``."""
    ids = served.llm.prompts.completion(prompt) if isinstance(prompt, str) else prompt
    cut = body.cut(served, ids)
    if isinstance(prompt, str) and len(cut) == len(ids):
        return ids, prompt
    return cut, served.text_of(cut, "prompt")


class _Answer:
    """Writes choices in OpenAI's form."""

    def __init__(self, served: Served, body: CompletionRequest, asked: list[_Asked]) -> None:
        self.body, self.asked = body, asked
        self.names = TokenNames(served, as_ids=bool(body.return_tokens_as_token_ids))
        self.head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }

    @property
    def has_logprobs(self) -> bool:
        """Whether log-probabilities are asked for; 0 asks for those of the tokens alone."""
        return self.body.logprobs is not None and self.body.logprobs is not False

    def usage(self) -> dict[str, Any]:
        """Return what all prompts cost."""
        return usage_of(*(each.generation.usage for each in self.asked))

    def echoed(self, each: _Asked) -> list[Told]:
        """Return the prompt's tokens with their log-probabilities, for ``echo``."""
        found: PromptLogprobs | None = each.generation.prompt_logprobs
        if found is None:
            return []
        count = int(self.body.logprobs or 0)
        tops = [top[:count] for top in found.top]
        return list(zip(each.ids, found.tokens, tops, strict=True))

    def of_prompt(self, each: _Asked) -> dict[str, Any]:
        """Return what vLLM's clients ask to be told of the prompt, None where they do not."""
        found, count = each.generation.prompt_logprobs, self.body.prompt_logprobs
        told: dict[str, Any] = {"prompt_token_ids": None, "prompt_logprobs": None}
        if self.body.return_token_ids:
            told["prompt_token_ids"] = list(each.ids)
        if count is not None and found is not None:
            told["prompt_logprobs"] = self.names.prompt(each.ids, found, count)
        return told


async def _whole(answer: _Answer, count: int) -> dict[str, Any]:
    async def read(each: _Asked) -> None:
        async for chunk in each.generation:
            each.choices.setdefault(chunk.index, _Choice()).add(chunk)

    try:
        await asyncio.gather(*(read(each) for each in answer.asked))
    finally:
        for each in answer.asked:
            each.generation.close()
    choices: list[dict[str, Any]] = []
    for each in answer.asked:
        ranked = [each.choices[index] for index in sorted(each.choices)]
        if len(ranked) > count:
            ranked.sort(key=lambda choice: -choice.logprob / max(1, len(choice.tokens)))
        for index, choice in enumerate(ranked[:count]):
            choices.append(_choice(answer, each, choice, each.first_index + index))
    return {**answer.head, "choices": choices, "usage": answer.usage()}


def _choice(answer: _Answer, each: _Asked, choice: _Choice, index: int) -> dict[str, Any]:
    body = answer.body
    is_prompt_only = bool(body.echo) and body.max_tokens == 0
    text = (
        ("" if is_prompt_only else choice.text)
        if not body.echo
        else each.text + ("" if is_prompt_only else choice.text)
    )
    logprobs = None
    if answer.has_logprobs:
        tokens = [] if is_prompt_only else choice.tokens
        if body.echo:
            tokens = [*answer.echoed(each), *tokens]
        logprobs = answer.names.completion(tokens, 0)
    ids = [] if is_prompt_only else choice.ids
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": "length" if is_prompt_only else choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "token_ids": ids if body.return_token_ids else None,
        **answer.of_prompt(each),
    }


async def _frames(answer: _Answer) -> AsyncIterator[bytes]:
    """Yield chunks of all choices as they come, the finish of each, the usage and the end."""
    body = answer.body
    usage = StreamUsage(body.stream_options, answer.usage)
    begun: set[int] = set()
    places: dict[int, int] = {}

    def frame(index: int, text: str, **rest: Any) -> bytes:
        if body.return_token_ids:
            rest.setdefault("token_ids", [])
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None, **rest}
        return event({**answer.head, "choices": [choice], **usage.of_chunk()})

    @functools.cache
    def form(index: int) -> EventForm:
        choice = {"index": index, "text": EventForm.GAP, "logprobs": None, "finish_reason": None}
        return EventForm({**answer.head, "choices": [choice], **usage.of_chunk()})

    try:
        async for each, chunk in merge((each, each.generation) for each in answer.asked):
            index = each.first_index + chunk.index
            if index not in begun:
                begun.add(index)
                places[index] = len(each.text) if body.echo else 0
                told = answer.of_prompt(each)
                rest = {name: value for name, value in told.items() if value is not None}
                if body.echo and answer.has_logprobs:
                    rest["logprobs"] = answer.names.completion(answer.echoed(each), 0)
                if body.echo or rest:
                    yield frame(index, each.text if body.echo else "", **rest)
            usage.count(chunk)
            rest = {}
            if chunk.token is not None and body.return_token_ids:
                rest["token_ids"] = [chunk.token]
            if chunk.logprob is not None and chunk.token is not None:
                tokens = [(chunk.token, chunk.logprob, chunk.top_logprobs)]
                rest["logprobs"] = answer.names.completion(tokens, places[index])
                # Of the token, not of the text, of which a part may be held back.
                places[index] += answer.names.width(chunk.token)
            if rest or (chunk.text and usage.is_continuous):
                yield frame(index, chunk.text, **rest)
            elif chunk.text:
                yield form(index).fill(chunk.text)
            if chunk.finish_reason is not None:
                reason = finish(chunk.finish_reason)
                yield frame(index, "", finish_reason=reason, stop_reason=chunk.stop_reason)
        if usage.is_asked:
            yield event({**answer.head, "choices": [], "usage": answer.usage()})
        yield DONE
    finally:
        for each in answer.asked:
            each.generation.close()
