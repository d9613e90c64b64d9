"""Asks the problems of a suite, judges the answers, and adds them up."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from trtcoder import __version__
from trtcoder.bundle.scores import Scores, Solved, SuiteScores
from trtcoder.cores import available_cores
from trtcoder.evaluation.card import card_figure
from trtcoder.evaluation.intervals import wilson
from trtcoder.evaluation.journal import Journal
from trtcoder.evaluation.models.model import Answer, Model
from trtcoder.evaluation.problem import Outcome, Problem, digest
from trtcoder.evaluation.sandbox.sandbox import Sandbox
from trtcoder.evaluation.suite import Suite
from trtcoder.progress import Advance

# Answers that wait for a judge before no more are taken.
_WAITING = 256
_REASON = 120


@dataclass(frozen=True, slots=True)
class Chosen:
    """A suite and its problems, as many as were asked for."""

    suite: Suite
    problems: Sequence[Problem]


def evaluate(
    model: Model,
    chosen: Sequence[Chosen],
    sandbox: Sandbox,
    journal: Journal,
    advance: Advance,
    *,
    address: str | None = None,
) -> Scores:
    """Ask and judge all problems that the journal has not; return what came of all of them.

    Args:
        model: whom to ask; entered.
        chosen: suites and their problems.
        sandbox: where code is run that the model wrote.
        journal: keeps each answer and outcome as it comes; entered.
        advance: told of each problem that is judged.
        address: of a server, for the scores.

    Raises:
        EvaluationError: the server or the sandbox fails.
    """
    for each in chosen:
        _answer(model, each, sandbox, journal, advance)
    return Scores(
        trtcoder=__version__,
        model=model.name,
        engine=model.digest,
        address=address,
        suites=tuple(_sum(model, each, journal) for each in chosen),
    )


def _answer(
    model: Model, chosen: Chosen, sandbox: Sandbox, journal: Journal, advance: Advance
) -> None:
    name = chosen.suite.name
    running: deque[tuple[Problem, Future[Outcome]]] = deque()

    def take(*, most: int) -> None:
        """Keep what was judged; wait for it only while more than ``most`` run."""
        while running and (len(running) > most or running[0][1].done()):
            problem, future = running.popleft()
            journal.add_outcome(name, problem, future.result())
            advance(1, problem.id)

    open_ = [each for each in chosen.problems if journal.outcome(name, each) is None]
    advance(len(chosen.problems) - len(open_), "")
    unasked = [each for each in open_ if journal.answer(name, each) is None]
    pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="judge")
    try:
        for problem in open_:
            answer = journal.answer(name, problem)
            if answer is not None:
                running.append((problem, pool.submit(_judge, problem, answer, sandbox)))
                take(most=_WAITING)
        for problem, answer in zip(unasked, model.answers(unasked), strict=True):
            journal.add_answer(name, problem, answer)
            running.append((problem, pool.submit(_judge, problem, answer, sandbox)))
            take(most=_WAITING)
        take(most=0)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        sandbox.stop()
        raise
    finally:
        pool.shutdown()


def _judge(problem: Problem, answer: Answer, sandbox: Sandbox) -> Outcome:
    if answer.refused:
        return Outcome(False, f"not asked: {answer.refused}")
    return problem.judge(answer.text, sandbox)


def _sum(model: Model, chosen: Chosen, journal: Journal) -> SuiteScores:
    suite, problems = chosen.suite, chosen.problems
    outcomes = [journal.outcome(suite.name, each) or Outcome(False) for each in problems]
    answers = [journal.answer(suite.name, each) for each in problems]
    sums: Counter[str] = Counter()
    for outcome in outcomes:
        sums.update(outcome.measures)
    passed = sum(outcome.passed for outcome in outcomes)
    low, high = wilson(passed, len(problems))
    return SuiteScores(
        suite=suite.name,
        title=suite.title,
        measure=suite.measure,
        form=problems[0].form,
        data=digest(problems),
        asked=len(problems),
        passed=passed,
        low=round(low, 6),
        high=round(high, 6),
        measures={name: round(total / len(problems), 6) for name, total in sorted(sums.items())},
        refused=sum(answer is not None and bool(answer.refused) for answer in answers),
        card=card_figure(suite.name, model.name),
        problems=tuple(
            Solved(problem.id, outcome.passed, outcome.reason[:_REASON], problem.place)
            for problem, outcome in zip(problems, outcomes, strict=True)
        ),
    )
