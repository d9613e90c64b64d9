"""Trains the demo model for a given time, resuming where it was stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from demo.recipe.corpus import WORK
from demo.recipe.examples import write_pass
from demo.recipe.model import DemoModel
from demo.recipe.optimizer import Optimizers

WINDOW = 512
BATCH = 16
WARMUP_STEPS = 100
DECAY_SHARE = 0.4
BALANCE_WEIGHT = 0.01
STATE = WORK / "state.pt"
LOG = Path(__file__).resolve().parents[1] / "training_log.jsonl"


def batches(step: int) -> NDArray[np.int64]:
    """Return the ids of ``step``, ``[BATCH, WINDOW + 1]``; passes follow one another."""
    size = BATCH * WINDOW
    number = 0
    while True:
        stream = write_pass(number)
        steps = (len(stream) - 1) // size
        if step < steps:
            rows = np.random.default_rng(number).permutation(steps * BATCH)
            chosen = rows[step * BATCH : (step + 1) * BATCH]
            return np.stack(
                [stream[row * WINDOW : row * WINDOW + WINDOW + 1] for row in chosen]
            ).astype(np.int64)
        step -= steps
        number += 1


def learning_rate(step: int, share: float) -> float:
    """Return the factor on the learning rates: warm-up by steps, decay by share of the time."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * min(1.0, (1 - share) / DECAY_SHARE)


def loss_of(model: DemoModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean next-token loss in nats and the expert balance term."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1])
    loss = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
    return loss, model.balance()


def train(minutes: float) -> None:
    """Train for ``minutes`` in all, log every 20 steps and save the state every five minutes."""
    torch.manual_seed(0)
    model = DemoModel()
    optimizers = Optimizers(model)
    step, spent = 0, 0.0
    if STATE.is_file():
        state = torch.load(STATE, weights_only=True)
        model.load_state_dict(state["model"])
        optimizers.load_state_dict(state["optimizers"])
        step, spent = state["step"], state["spent"]
    budget = 60 * minutes
    saved = last = time.monotonic()
    recent: list[float] = []
    while spent < budget:
        ids = torch.from_numpy(batches(step))
        loss, balance = loss_of(model, ids)
        torch.autograd.backward(loss + BALANCE_WEIGHT * balance)
        optimizers.step(learning_rate(step, spent / budget))
        recent.append(loss.item())
        step += 1
        now = time.monotonic()
        spent += now - last
        last = now
        if step % 20 == 0:
            entry = {
                "step": step,
                "tokens": step * BATCH * WINDOW,
                "minutes": round(spent / 60, 2),
                "loss": round(float(np.mean(recent)), 4),
                "balance": round(balance.item(), 4),
                "tokens_per_second": round(step * BATCH * WINDOW / spent),
            }
            with LOG.open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            recent.clear()
        if now - saved > 300 or spent >= budget:
            saved = now
            temporary = STATE.with_suffix(".partial")
            state = {
                "model": model.state_dict(),
                "optimizers": optimizers.state_dict(),
                "step": step,
                "spent": spent,
            }
            torch.save(state, temporary)
            temporary.rename(STATE)
