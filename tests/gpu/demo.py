"""Step 3: the demo engine's logits and text against the CPU's."""

from __future__ import annotations

import json

import numpy as np

from tests.gpu.place import Found, Place
from tests.runtime.packing import ByHand
from trtcoder import open_engine
from trtcoder.bundle.folder import Bundle
from trtcoder.runtime.engine.batch import PackedBatch
from trtcoder.runtime.engine.runner import ModelRunner

# Mean KL in nats against the twin, which rounds at the same places and sums in another order.
LIMIT = 2e-3


def run(place: Place) -> Found:
    """Run a text in chunks and token by token, and continue prompts."""
    engine = place.need("demo")
    wanted = np.load(place.need("demo_logits.npy")).astype(np.float64)
    asked = json.loads(place.need("demo_text.json").read_text())
    ids = asked["ids"]
    runner = ModelRunner(Bundle.load(engine), cache_tokens=2 * len(ids))
    found = {"chunks": chunks(runner, ids, 128), "tokens": chunks(runner, ids[:96], 1)}
    values: dict[str, float] = {}
    for name, logits in found.items():
        truth = wanted[: len(logits)]
        values[f"kl, {name}"] = kl(truth, logits)
        values[f"top-1, {name}"] = float((truth.argmax(-1) == logits.argmax(-1)).mean())
    del runner
    same = total = 0
    with open_engine(engine) as llm:
        for prompt, text in asked["answers"]:
            (given,) = llm.generate(
                [prompt], max_tokens=asked["max_tokens"], temperature=0.0, progress=False
            )
            answer = given.outputs[0].text
            total += len(text)
            same += next(
                (i for i, (a, b) in enumerate(zip(answer, text, strict=False)) if a != b),
                min(len(answer), len(text)),
            )
    values["characters the same"], values["characters"] = same, total
    # NaN is beyond every limit.
    problems = tuple(
        f"mean KL of {name} is {values[f'kl, {name}']:.1e} nats, limit {LIMIT}"
        for name in found
        if not values[f"kl, {name}"] < LIMIT
    )
    return Found(
        f"mean KL {values['kl, chunks']:.1e} nats in chunks, {values['kl, tokens']:.1e} by token, "
        f"top-1 {values['top-1, chunks']:.1%}; {same} of {total} characters before answers part",
        values,
        problems,
    )


def chunks(runner: ModelRunner, ids: list[int], size: int) -> np.ndarray:
    """Return the logits of all tokens, run ``size`` at a time."""
    sequence, found = ByHand(runner), []
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        batch = PackedBatch.pack([sequence.span(part, len(part))], runner.block_size)
        found.append(np.array(runner.forward(batch), np.float64))
    return np.concatenate(found)


def kl(wanted: np.ndarray, found: np.ndarray) -> float:
    """Return the mean KL divergence in nats of logits ``[T, V]``."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x - x.max(-1, keepdims=True)
        return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))

    p, q = log_softmax(wanted), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(-1).mean())
