"""All suites by name."""

from __future__ import annotations

from collections.abc import Sequence

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.suite import Suite
from trtcoder.evaluation.suites import (
    human_eval,
    human_eval_infilling,
    infilling,
    live_code_bench,
    mathematics,
    mbpp_plus,
    needle,
    repobench,
)

_ALL = (
    human_eval.SUITE,
    infilling.SUITE,
    needle.SUITE,
    human_eval_infilling.SUITE,
    mbpp_plus.SUITE,
    live_code_bench.SUITE,
    repobench.SUITE,
    mathematics.GSM8K,
    mathematics.MATH,
)
SUITES = {suite.name: suite for suite in _ALL}


def find_suites(names: Sequence[str]) -> list[Suite]:
    """Return suites by name; those that need no file where none is named.

    Raises:
        EvaluationError: there is none of that name.
    """
    for name in names:
        if name not in SUITES:
            raise EvaluationError(f"--suite {name}: there is {', '.join(SUITES)}; give one of them")
    chosen = dict.fromkeys(names) or {name: None for name, s in SUITES.items() if not s.needs_file}
    return [SUITES[name] for name in chosen]
