"""The certificate of an engine, parity.json: what was compared, with what, and the outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtcoder.export.parity.meter import ParityReport, render_table

FILE_NAME = "parity.json"
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an engine's weights came to be, as its build knows it; a later `verify` carries it over.

    Attributes:
        tensors: what storing each tensor cost, as `TensorRecord.to_dict` gives it.
        calibration: what text calibrated, and how; None without calibration.
        plan: which precision each layer and class got, and why; None for a preset.
    """

    tensors: Sequence[Mapping[str, Any]] = ()
    calibration: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None

    @classmethod
    def of_engine(cls, folder: Path) -> Provenance:
        """Read it from the certificate in an engine's folder.

        What is missing or malformed there stays empty: it describes, and decides nothing.
        """
        try:
            data = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls()
        if not isinstance(data, dict):
            return cls()
        tensors, calibration, plan = (data.get(key) for key in ("tensors", "calibration", "plan"))
        return cls(
            tensors=[entry for entry in tensors if isinstance(entry, dict)]
            if isinstance(tensors, list)
            else (),
            calibration=calibration if isinstance(calibration, dict) else None,
            plan=plan if isinstance(plan, dict) else None,
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was compared, with what, and the outcome.

    Attributes:
        report: the metrics and gates of the engine as it serves.
        weights_only_kl: mean KL in nats with float32 activations in the kernels: what storing the
            weights cost, without what the int8 kernels add. None where they are the same.
        versions: name and version of all that took part.
        text: where the held-out text came from and how much was used.
        checkpoint: digest of the reference checkpoint.
        tensors, calibration, plan: see `Provenance`.
    """

    report: ParityReport
    weights_only_kl: float | None
    versions: dict[str, str]
    text: dict[str, object]
    checkpoint: str
    tensors: list[dict[str, Any]] = field(default_factory=list)
    calibration: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the form of parity.json."""
        return {
            "format": FORMAT,
            "verdict": self.report.verdict,
            "reference": {"checkpoint": self.checkpoint, "versions": self.versions},
            "text": self.text,
            "weights_only_kl": self.weights_only_kl,
            "tensors": self.tensors,
            "calibration": self.calibration,
            "plan": self.plan,
            **self.report.to_dict(),
        }

    def to_json(self) -> str:
        """Return the text of parity.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def render(self) -> str:
        """Return the comparison as a table."""
        table = render_table(self.report)
        if self.weights_only_kl is None:
            return table
        return f"{table}\nKL with float32 activations: {self.weights_only_kl:.3g}"

    def summary(self) -> dict[str, object]:
        """Return what the manifest repeats."""
        logits = self.report.logits
        return {
            "verdict": self.report.verdict,
            "quality": self.report.quality,
            "kl_mean": logits.kl_mean,
            "top1_agreement": logits.top1_agreement,
            "tokens": logits.positions,
        }
