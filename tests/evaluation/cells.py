"""A sandbox for tests that run code."""

from __future__ import annotations

import functools

import pytest

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.sandbox.sandbox import Limits, Sandbox


@functools.cache
def _problem() -> str:
    try:
        Sandbox().check()
    except EvaluationError as error:
        return str(error)
    return ""


def cell(**limits: int) -> Sandbox:
    """Return a sandbox, or skip the test on a host without the means for one."""
    if problem := _problem():
        pytest.skip(problem)
    return Sandbox(Limits(**limits))
