"""The engine's loop: schedule, run, sample. One thread owns it; see `engine_thread`."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import BusyError, EngineError, RequestError, TrtcoderError
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.cache.latent_cache import LatentCache
from trtcoder.runtime.cache.prefix_store import PrefixStore
from trtcoder.runtime.constraints.compiler import ConstraintCompiler
from trtcoder.runtime.engine import admission
from trtcoder.runtime.engine.batch import PackedBatch, Span
from trtcoder.runtime.engine.job import Job, Sink
from trtcoder.runtime.engine.model import Model
from trtcoder.runtime.engine.prefix_keeper import PrefixKeeper
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.engine.stats import EngineStats
from trtcoder.runtime.requests.answer import Answer
from trtcoder.runtime.requests.events import (
    Cancelled,
    Failed,
    Progress,
    PromptLogprobs,
)
from trtcoder.runtime.requests.request import Request
from trtcoder.runtime.requests.usage import Usage
from trtcoder.runtime.sampling.sampler import Report, best_of
from trtcoder.runtime.scheduler.pace import Pace
from trtcoder.runtime.scheduler.scheduler import Limits, Scheduler, Step, Work
from trtcoder.runtime.scheduler.sequence import Sequence, State
from trtcoder.runtime.speculation.speculator import Speculator
from trtcoder.runtime.text.vocabulary import Vocabulary

Logits = NDArray[np.float32]


class EngineCore:
    """Requests, the scheduler and the runner. Not for use by several threads at once.

    Attributes:
        scheduler: what waits and what runs.
        stats: counters.
        context: most tokens of a prompt and its answer.
        busy_since: when the step that is running began, of `time.monotonic`; None between steps.
        constraints: compiles what answers are held to.
    """

    def __init__(
        self,
        runner: Model,
        tokenizer: TextTokenizer,
        settings: EngineSettings,
        store: PrefixStore | None = None,
    ) -> None:
        """Take a graph that is loaded; ``store`` keeps prefixes beyond this process."""
        self._runner = runner
        self._tokenizer = tokenizer
        self._eos = frozenset(runner.manifest.tokens.eos)
        self.constraints = ConstraintCompiler(tokenizer, runner.vocab_size, sorted(self._eos))
        rows = runner.num_blocks * runner.block_size
        self.context = min(runner.max_positions, rows, settings.context or rows)
        self._defaults = settings.sampling
        self.scheduler = Scheduler(
            LatentCache(
                runner.num_blocks,
                runner.block_size,
                shares_prefixes=settings.prefix_cache and not settings.deterministic,
            ),
            Limits(
                max_sequences=1 if settings.deterministic else settings.max_batch,
                max_waiting=settings.max_queue,
                context=self.context,
                score_cells=runner.score_cells,
                chunk=settings.chunk if settings.deterministic else None,
            ),
        )
        self._keeper = None if store is None else PrefixKeeper(store, runner)
        if self._keeper is not None:
            self.scheduler.restoring(self._keeper.restore)
        self.stats = EngineStats()
        self._pace = Pace(settings.chunk, settings.gap_seconds)
        speculates = settings.speculate
        if speculates is None:
            speculates = runner.choice.whole and not settings.deterministic
        self._speculator = Speculator() if speculates else None
        self._jobs: dict[Sequence, Job] = {}
        self.busy_since: float | None = None
        self._now = 0.0
        self._most = settings.max_batch + settings.max_queue

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens by their bytes, read when they are first needed. Any thread may ask."""
        return Vocabulary(self._tokenizer, self._runner.vocab_size)

    @property
    def num_running(self) -> int:
        """Answers that are computed now. Any thread may ask."""
        return len(self.scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Answers that wait now. Any thread may ask."""
        return len(self.scheduler.waiting)

    @property
    def num_preemptions(self) -> int:
        """How often an answer lost its blocks. Any thread may ask."""
        return self.scheduler.preemptions

    @property
    def cache_usage(self) -> float:
        """Share of the cache's blocks that answers hold, 0 to 1. Any thread may ask."""
        cache = self.scheduler.cache
        return 1.0 - cache.num_available / cache.num_blocks

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do. Any thread may ask."""
        return self.scheduler.has_work

    def prepare(self, request: Request, sink: Sink) -> Job:
        """Check a request and return the job that `submit` takes. Any thread may call this.

        Raises:
            RequestError: a token or a parameter is out of range, the prompt is too long, or the
                constraint is malformed.
        """
        params = request.params.resolved(self._defaults)
        prompt, size = request.prompt_ids, self._runner.vocab_size
        admission.check(request, params, size, self.context)
        job = Job(request, params, sink, Usage(len(prompt)))
        leader: Sequence | None = None
        for index in range(params.n):
            sequence = Sequence(
                list(prompt),
                len(prompt),
                client=request.client,
                salt=request.salt,
                leader=leader,
                all_logits=params.prompt_logprobs is not None and index == 0,
            )
            leader = leader or sequence
            matcher = None
            if params.constraint is not None:
                if request.forced:
                    raise RequestError(
                        f"{params.constraint.source}: not together with a forced beginning"
                    )
                spaced = request.strip_leading_space
                matcher = self.constraints.matcher(params.constraint, spaced=spaced)
            job.answers[sequence] = Answer(
                request, params, index, self._tokenizer, self._eos, size,
                lambda: self.vocabulary, matcher,
            )  # fmt: skip
        return job

    def check_room(self, answers: int) -> None:
        """Raise BusyError where so many more answers may not be queued. Any thread may call it."""
        if len(self._jobs) + answers > self._most:
            raise BusyError(
                f"{len(self._jobs)} answers are running or waiting and at most {self._most} may; "
                "try again later"
            )

    def seconds_until_room(self) -> float:
        """Return about how long until the queue is shorter, for a client that comes back."""
        waiting = sum(each.num_missing for each in list(self.scheduler.waiting)[:8])
        return self._pace.seconds_for(waiting) or 1.0

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            BusyError: too many are waiting.
        """
        self.scheduler.add(*job.answers)
        self._jobs |= dict.fromkeys(job.answers, job)
        self.stats.requests += 1

    def cancel(self, job: Job) -> None:
        """End what is left of a job; its blocks are free at once."""
        for sequence, answer in job.answers.items():
            if sequence in self._jobs:
                answer.finish_reason = "cancelled"
                self._end(sequence)
                self.stats.finished["cancelled"] += 1
                job.sink(Cancelled(answer.index))

    def step(self) -> None:
        """Run one step: every sequence that takes part gets on."""
        self.busy_since = started = time.monotonic()
        step = self.scheduler.schedule(self._pace.budget(self._is_decoding()))
        for work in step.works:
            usage = self._jobs[work.sequence].usage
            if usage.started is None:
                usage.started = started
                usage.cached_tokens = work.sequence.num_cached or 0
                self.stats.asked_tokens += usage.prompt_tokens
                self.stats.cached_tokens += usage.cached_tokens
        for source, target, rows in step.copies:
            self._runner.copy_rows(source, target, rows)
        self.scheduler.copied()
        self._cut(step)
        if not step.works:
            return
        drafted = self._draft(step)
        try:
            logits = self._run(step.works)
            best = best_of(logits)
        except EngineError:
            self._now = time.monotonic()
            self._run_apart(step.works)
        else:
            self._now = time.monotonic()
            self._take(step.works, logits, best)
        seconds = self._now - started
        if drafted is not None and self._speculator is not None:
            self._speculator.note(len(step.works), drafted, seconds)
        if not drafted:
            self._pace.note(step.num_tokens, seconds)
        self.stats.steps += 1

    def close(self) -> None:
        """Write what the store has not written yet."""
        if self._keeper is not None:
            self._keeper.close()

    def fail_all(self, error: TrtcoderError) -> None:
        """End every request with ``error``."""
        for job in set(self._jobs.values()):
            self._fail(job, error)

    def _draft(self, step: Step) -> int | None:
        """Let answers run ahead where their next tokens are likely; return by how many tokens.

        None where nobody guesses, or a prompt runs in the step.
        """
        if self._speculator is None or not step.only_decodes:
            return None
        drafted = 0
        for index, tokens in self._speculator.choose([work.sequence for work in step.works]):
            sequence = step.works[index].sequence
            answer = self._jobs[sequence].answers[sequence]
            drafted += self.scheduler.draft(step, index, answer.fitting(tokens))
        return drafted

    def _is_decoding(self) -> bool:
        return any(each.num_missing == 1 for each in self.scheduler.running)

    def _run(self, works: list[Work]) -> Logits:
        blocks_for = self.scheduler.cache.blocks_for
        spans = []
        for work in works:
            stop = work.start + work.num_tokens
            # Not those of tokens behind the step's: every block that is bound costs time.
            blocks = work.sequence.table.row[: blocks_for(stop)]
            tokens = work.sequence.tokens[work.start : stop]
            spans.append(Span([*tokens, *work.draft], work.start, blocks, work.num_rows))
        return self._runner.forward(PackedBatch.pack(spans, self._runner.block_size))

    def _run_apart(self, works: list[Work]) -> None:
        """Run sequences one by one after a step that failed: only the bad ones end.

        What a sequence wrote may have reached its neighbours' rows, so the rows of all are cleared
        first. Earlier rows are good: each step's logits were finite.
        """
        self._clear(works)
        # A guess may be what is bad.
        for work in (replace(work, draft=()) for work in works):
            try:
                logits = self._run([work])
                best = best_of(logits)
            except EngineError as error:
                self._clear([work])
                self._fail(self._jobs[work.sequence], error)
            else:
                self._take([work], logits, best)

    def _clear(self, works: list[Work]) -> None:
        size = self._runner.block_size
        for work in works:
            positions = np.arange(work.start, work.start + work.num_tokens)
            blocks = work.sequence.table.row[positions // size]
            self._runner.clear_rows(blocks * size + positions % size)

    def _take(self, works: list[Work], logits: Logits, best: list[int]) -> None:
        """Note the rows of works whose logits are good, and go on with them.

        ``logits`` and ``best`` are those of the works' samples, one work after another.
        """
        end = 0
        for work in works:
            start, end = end, end + work.num_rows
            sequence = work.sequence
            job = self._jobs.get(sequence)
            if job is None:  # a neighbour's failure ended its request
                continue
            if sequence.all_logits and work.start < sequence.num_prompt:
                self._report_prompt(job, work, logits[start:end])
            self.scheduler.advance(sequence, work.count)
            if sequence.num_missing:
                job.sink(
                    Progress(sequence.num_computed, sequence.num_prompt, sequence.num_cached or 0)
                )
                continue
            first = end - 1 - len(work.draft)
            self._verify(job, work, logits[first:end], best[first:end])

    def _verify(self, job: Job, work: Work, logits: Logits, best: list[int]) -> None:
        """Sample a work's answer row by row, for as long as what was drafted is what comes.

        Each row is sampled as it would be without drafts, with the same draws, so the text and its
        distribution are the same.
        """
        sequence, accepted = work.sequence, 0
        token = self._sample(job, sequence, logits[0], best[0])
        for row, drafted in enumerate(work.draft, start=1):
            if token != drafted:
                break
            accepted += 1
            self.scheduler.advance(sequence, 1)
            token = self._sample(job, sequence, logits[row], best[row])
        if work.draft:
            self.stats.count_draft(len(work.draft), accepted)

    def _sample(self, job: Job, sequence: Sequence, logits: Logits, best: int) -> int | None:
        """Let an answer go on by a token, and return it; None where the answer has ended."""
        answer = job.answers[sequence]
        try:
            sample = answer.sample(logits, best)
        except TrtcoderError as error:
            self._fail(job, error)
            return None
        sequence.tokens.append(sample.token)
        job.usage.count(self._now)
        self.stats.generated_tokens += 1
        is_last = len(sequence.tokens) > self.context
        chunk = answer.accept(sample, is_last=is_last)
        if chunk.finish_reason is not None:
            self._end(sequence)
            self.stats.finished[chunk.finish_reason] += 1
        job.sink(chunk)
        return sample.token if chunk.finish_reason is None else None

    def _report_prompt(self, job: Job, work: Work, logits: Logits) -> None:
        """Collect the prompt's log-probabilities; the row of a token is of the one before it."""
        count = job.params.prompt_logprobs or 0
        following = work.sequence.tokens[work.start + 1 : work.start + work.count + 1]
        for row, token in zip(logits, following, strict=False):
            sample = Report.of(row, count).sample(token)
            job.prompt_logprobs.append((sample.logprob or 0.0, sample.top_logprobs))
        if work.start + work.count >= work.sequence.num_prompt:
            values = [None, *(value for value, _ in job.prompt_logprobs)]
            tops = [(), *(top for _, top in job.prompt_logprobs)]
            job.sink(PromptLogprobs(tuple(values), tuple(tops)))
            work.sequence.all_logits = False

    def _cut(self, step: Step) -> None:
        """End answers for which the cache has no room, with the text that was held back."""
        for sequence in step.out_of_room:
            job = self._jobs[sequence]
            self._end(sequence)
            self.stats.finished["context"] += 1
            job.sink(job.answers[sequence].cut())

    def _fail(self, job: Job, error: TrtcoderError) -> None:
        for sequence in job.answers:
            if sequence in self._jobs:
                self._end(sequence)
        self.stats.failed += 1
        job.sink(Failed(error))

    def _end(self, sequence: Sequence) -> None:
        if sequence.state is not State.FINISHED:
            if self._keeper is not None:
                self._keeper.keep(sequence)
            self.scheduler.finish(sequence)
        if self._speculator is not None:
            self._speculator.forget(sequence)
        self._jobs.pop(sequence, None)
