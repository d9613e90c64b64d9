"""Stages of several numbers side by side, as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trtcoder.export.scale.layers import Layers
from trtcoder.export.scale.simulation import Run
from trtcoder.export.scale.stages import Setting, Staged, Work, fewest_stages, plan_stages
from trtcoder.tables import render_table

GB = 1e9


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a model takes and gives in several numbers of stages.

    Attributes:
        layers: the model.
        setting: what it runs on.
        work: what is asked of it.
        fewest: stages that fit; None where a layer alone does not.
        plans: one for each number of stages.
    """

    layers: Layers
    setting: Setting
    work: Work
    fewest: int | None
    plans: tuple[Staged, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints; memory in bytes, times in seconds."""
        return {
            "model": self.layers.name,
            "weights_bytes": self.layers.stored,
            "setting": dataclasses.asdict(self.setting),
            "work": dataclasses.asdict(self.work),
            "fewest_stages": self.fewest,
            "plans": [_described(plan) for plan in self.plans],
        }

    def render(self) -> str:
        """Return it as plain text."""
        work, setting = self.work, self.setting
        lines = [
            f"{self.layers.name}, {len(self.layers.layers)} layers, "
            f"{self.layers.stored / GB:,.1f} GB of weights; {work.streams} streams of "
            f"{work.context:,} tokens, a prompt of {work.prompt:,} in chunks of {work.chunk}",
            f"a stage has {setting.room / GB:,.1f} GB, {setting.usable:.0%} of its device's; "
            f"{setting.efficiency:.0%} of the peaks are reached (both assumed)",
            f"the fewest stages that fit: {self.fewest or 'none, a layer alone is too large'}",
            "",
            render_table(
                [_row(plan) for plan in self.plans],
                header=(
                    "stages", "fullest GB", "decode tok/s", "a stream", "groups", "bubbles",
                    "prefill tok/s", "first token s", "bubbles",
                ),
            ),
        ]  # fmt: skip
        for plan in self.plans:
            lines += ["", f"in {len(plan.stages)}:", render_table(_stage_rows(plan), header=_STAGE)]
        return "\n".join(lines)


_STAGE = ("stage", "layers", "weights GB", "cache GB", "workspace GB", "sum GB", "busy, decoding")


def forecast(layers: Layers, counts: Sequence[int], setting: Setting, work: Work) -> Forecast:
    """Plan a model in each of ``counts`` stages.

    Raises:
        BuildError: there are more stages than layers.
    """
    plans = tuple(plan_stages(layers, count, setting, work) for count in counts)
    return Forecast(layers, setting, work, fewest_stages(layers, setting, work), plans)


def _row(plan: Staged) -> list[str]:
    fullest = f"{max(stage.nbytes for stage in plan.stages) / GB:,.1f}"
    rate, reading = plan.decode_rate, plan.prefill_rate
    if plan.decode is None or plan.prefill is None or rate is None or reading is None:
        return [str(len(plan.stages)), fullest, "does not fit", *[""] * 6]
    return [
        str(len(plan.stages)),
        fullest,
        f"{rate:,.0f}",
        f"{rate / plan.work.streams:,.1f}",
        str(plan.groups),
        f"{plan.decode.bubble:.0%}",
        f"{reading:,.0f}",
        f"{plan.prefill.seconds:,.1f}",
        f"{plan.prefill.bubble:.0%}",
    ]


def _stage_rows(plan: Staged) -> list[list[str]]:
    busy = (
        [""] * len(plan.stages) if plan.decode is None else [f"{b:.0%}" for b in plan.decode.busy]
    )
    return [
        [
            str(number),
            f"{stage.layers.start} to {stage.layers.stop - 1}",
            *(
                f"{n / GB:,.2f}"
                for n in (stage.weights, stage.cache, stage.workspace, stage.nbytes)
            ),
            busy[number],
        ]
        for number, stage in enumerate(plan.stages)
    ]


def _described(plan: Staged) -> dict[str, Any]:
    return {
        "stages": [
            {
                "first_layer": stage.layers.start,
                "layers": len(stage.layers),
                "weights_bytes": stage.weights,
                "cache_bytes": stage.cache,
                "workspace_bytes": stage.workspace,
            }
            for stage in plan.stages
        ],
        "fits": plan.fits,
        "groups": plan.groups,
        "decode": _run(plan.decode, plan.decode_rate),
        "prefill": _run(plan.prefill, plan.prefill_rate),
    }


def _run(run: Run | None, rate: float | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "tokens_per_second": rate,
        "seconds": run.seconds,
        "bubble": run.bubble,
        "busy": list(run.busy),
    }
