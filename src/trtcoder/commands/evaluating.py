"""One evaluation: from an engine or a server to a file of scores."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from trtcoder.bundle.lock import FileLock
from trtcoder.commands.eval_options import EvalOptions
from trtcoder.commands.terminal import say
from trtcoder.errors import EvaluationError, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtcoder.bundle.scores import Scores
    from trtcoder.evaluation.models.model import Model
    from trtcoder.evaluation.problem import Form
    from trtcoder.evaluation.run import Chosen
    from trtcoder.evaluation.suite import Suite
    from trtcoder.output_file import OutputFile

# Seconds that a server may take for one answer.
_PATIENCE = 3600.0


def evaluate_target(target: str, options: EvalOptions) -> Scores:
    """Evaluate one engine or server and write its scores."""
    from trtcoder.bundle.scores import FILE_NAME
    from trtcoder.evaluation.journal import Journal
    from trtcoder.evaluation.run import evaluate
    from trtcoder.evaluation.sandbox.sandbox import Sandbox
    from trtcoder.evaluation.suites.registry import find_suites
    from trtcoder.output_file import OutputFile
    from trtcoder.progress import step_progress

    is_url = target.startswith(("http://", "https://"))
    if is_url and options.attach:
        raise RequestError("--attach: a server's engine is not here; evaluate its folder")
    chosen_suites = find_suites(options.suites)
    data = options.data()
    for suite in chosen_suites:
        suite.check_file(data.get(suite.name))
    sandbox = Sandbox(trusted=options.trust_generated_code)
    model = _model(target, options, is_url=is_url)
    path = options.out or Path(f"{name_of(target)}.eval.json")
    record = path.with_name(f"{path.name}l")
    if record.exists() and not (options.resume or options.force):
        raise RequestError(
            f"{record}: is there from an earlier run; go on with --resume, begin anew with "
            "--force, or give another file with --out"
        )
    may = options.force or options.resume
    target_file = OutputFile.check(path, "--out", force=may)
    OutputFile.check(record, "--out", force=may)
    picture = _picture_file(options)
    if any(suite.runs_code for suite in chosen_suites):
        sandbox.check()
    with ExitStack() as stack:
        _lock(record, stack)
        stack.enter_context(model)
        chosen = _all_chosen(chosen_suites, model, options)
        asked = {"model": model.name, "engine": model.digest, "address": target if is_url else None}
        journal = stack.enter_context(Journal(record, asked, resume=options.resume))
        total = sum(len(each.problems) for each in chosen)
        try:
            with step_progress("evaluating", total, unit="problems") as advance:
                scores = evaluate(
                    model, chosen, sandbox, journal, advance, address=asked["address"]
                )
        except BaseException:
            say(f"{record} keeps {journal.answered:,} answers; go on with --resume")
            raise
    target_file.write(scores.to_json())
    say(f"written to {target_file.path}")
    if picture is not None:
        _draw(scores, picture)
    if options.attach:
        from trtcoder.bundle.attachment import attach

        attach(Path(target), FILE_NAME, scores.to_json())
        say(f"added to {target} as {FILE_NAME}")
    return scores


def _lock(record: Path, stack: ExitStack) -> None:
    """Keep other runs from writing the same journal until ``stack`` is left.

    Raises:
        RequestError: one does.
    """
    lock = FileLock(record.with_name(f".{record.name}.lock"))
    if not lock.acquire():
        raise RequestError(f"{record}: another run is writing it; wait, or give another --out")
    stack.callback(lock.release)


def _model(target: str, options: EvalOptions, *, is_url: bool) -> Model:
    if is_url:
        from trtcoder.evaluation.models.served_model import ServedModel

        return ServedModel(target, options.model, at_once=options.at_once, timeout=_PATIENCE)
    from trtcoder.commands.needs import require_run
    from trtcoder.evaluation.models.engine_model import EngineModel
    from trtcoder.runtime.engine.settings import EngineSettings

    require_run()
    settings = EngineSettings(
        threads=options.threads, context=options.context, max_batch=options.at_once
    )
    return EngineModel(Path(target), settings)


def _all_chosen(suites: Sequence[Suite], model: Model, options: EvalOptions) -> list[Chosen]:
    """Return the suites' problems.

    A suite that the model was not trained for is left out where nobody named it.
    """
    found = []
    for suite in suites:
        forms = [options.form] if options.form in suite.forms else suite.forms
        form = next((form for form in forms if model.can(form)), None)
        if form is not None:
            found.append(_chosen(suite, form, model, options))
            continue
        problem = f"{suite.name}: {model.name} was not trained to {' or to '.join(forms)}"
        if options.suites:
            raise EvaluationError(f"{problem}; leave the suite out, or ask in another --form")
        say(f"note: {problem}, so it is left out")
    return found


def _chosen(suite: Suite, form: Form, model: Model, options: EvalOptions) -> Chosen:
    from trtcoder.evaluation.run import Chosen
    from trtcoder.evaluation.suite import Setup

    setup = Setup(
        form=form,
        file=options.data().get(suite.name),
        count_tokens=model.count_tokens,
        context=model.context or 1 << 17,
        needle_lengths=options.lengths(),
        needle_depths=options.needle_depths,
    )
    return Chosen(suite, suite.problems(setup)[: options.limit])


def name_of(target: str) -> str:
    """Return what a target's files are called by."""
    if "://" in target:
        return target.partition("://")[2].strip("/").replace("/", "-").replace(":", "-")
    return Path(target).resolve().name.removesuffix(".json").removesuffix(".eval")


def _picture_file(options: EvalOptions) -> OutputFile | None:
    if options.picture is None:
        return None
    from trtcoder.commands.needs import require_report
    from trtcoder.output_file import OutputFile

    require_report()
    return OutputFile.check(options.picture, "--picture", force=options.force or options.resume)


def _draw(scores: Scores, picture: OutputFile) -> None:
    from trtcoder.report.canvas import drawing_style, standalone
    from trtcoder.report.needle_plot import draw_needles

    with drawing_style():
        drawn = draw_needles(scores)
    if drawn is None:
        say("there is no needle's map to draw: ask --suite needle")
        return
    picture.write(standalone(drawn))
    say(f"written to {picture.path}")
