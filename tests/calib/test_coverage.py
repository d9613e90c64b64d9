from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.calib.coverage import ExpertCoverage

EXPERTS, TOP_K = 12, 2


@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 30))
def test_experts_learn_from_their_own_tokens_and_borrow_no_more_than_they_lack(
    seed: int, tokens: int, minimum: int
) -> None:
    rng = np.random.default_rng(seed)
    # Some experts are rare: their logits are low for every token.
    logits = rng.standard_normal((tokens, EXPERTS)) + rng.standard_normal(EXPERTS) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities = probabilities.astype(np.float32)
    mixing = np.zeros_like(probabilities)
    chosen = np.argsort(-probabilities, axis=1)[:, :TOP_K]
    np.put_along_axis(mixing, chosen, np.take_along_axis(probabilities, chosen, 1), 1)
    coverage = ExpertCoverage(minimum, {}, [])
    found = list(coverage.share_out(3, probabilities, mixing, TOP_K))
    assert len(found) == EXPERTS
    assert sum(coverage.routed[3]) == TOP_K * tokens
    for expert, learned in enumerate(found):
        own = np.flatnonzero(mixing[:, expert])
        assert coverage.routed[3][expert] == len(own)
        assert learned.tokens[: len(own)].tolist() == own.tolist()
        assert len(set(learned.tokens.tolist())) == len(learned.tokens) == len(learned.shares)
        assert len(learned.tokens) <= max(len(own), minimum)
        assert (learned.shares > 0).all()
        is_short = len(learned.tokens) < minimum
        assert (learned.short is not None) == is_short
        assert ((3, expert, len(learned.tokens)) in coverage.short) == is_short
        if is_short:
            # Every token that ranks it among the next few was borrowed.
            ranks = (-probabilities).argsort(axis=1).argsort(axis=1)[:, expert]
            assert set(np.flatnonzero(ranks < 2 * TOP_K)) <= set(learned.tokens.tolist())
