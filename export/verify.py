"""Holds an engine against reference logits and writes its certificate, parity.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder import __version__
from trtcoder.calib.heldout import load_heldout
from trtcoder.calib.text import EncodedText
from trtcoder.checkpoint import Checkpoint
from trtcoder.errors import EngineError
from trtcoder.export.parity import ParityMeter, ParityReport
from trtcoder.export.probe import Probe
from trtcoder.export.reference import TransformersReference
from trtcoder.manifest import Manifest

FILE_NAME = "parity.json"
FORMAT = 1
# Twice the context that the published models had before YaRN.
FAR_POSITION = 8192
DECODED_TOKENS = 64

OnStep = Callable[[int, str], None]


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
    """

    report: ParityReport
    weights_only_kl: float | None
    versions: dict[str, str]
    text: dict[str, object]
    checkpoint: str

    def to_dict(self) -> dict[str, Any]:
        """Return the form of parity.json."""
        return {
            "format": FORMAT,
            "verdict": self.report.verdict,
            "reference": {"checkpoint": self.checkpoint, "versions": self.versions},
            "text": self.text,
            "weights_only_kl": self.weights_only_kl,
            **self.report.to_dict(),
        }

    def to_json(self) -> str:
        """Return the text of parity.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def summary(self) -> dict[str, object]:
        """Return what the manifest repeats."""
        logits = self.report.logits
        return {
            "verdict": self.report.verdict,
            "kl_mean": logits.kl_mean,
            "top1_agreement": logits.top1_agreement,
            "tokens": logits.positions,
        }


def verify_engine(
    folder: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    digest: str,
    *,
    max_tokens: int,
    text: Path | None = None,
    max_kl: float | None = None,
    on_step: OnStep = lambda amount, item: None,
) -> Certificate:
    """Compare the engine in ``folder`` with transformers on held-out text.

    ``digest`` is the checkpoint's; ``on_step`` is told of each layer of the reference and each
    sequence of the engine (`count_steps` says how many there are).

    Raises:
        EngineError: the engine was built from another checkpoint.
        DependencyError: a package of the reference is missing.
        RequestError: the held-out text cannot be used.
    """
    from tokenizers import Tokenizer

    if digest != manifest.source.digest:
        raise EngineError(
            f"{folder}: was built from checkpoint {manifest.source.digest[:16]}…, not from "
            f"{checkpoint.folder} ({digest[:16]}…); give the checkpoint that it was built from"
        )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    sequences = load_heldout(manifest, tokenizer, max_tokens, text)
    first = sequences[0]
    far = EncodedText("far", first.ids, first.scored_from, first.scored_bytes)
    judged = [
        *((sequence, np.arange(len(sequence.ids))) for sequence in sequences),
        (far, far_positions(len(far.ids), manifest.graph.cache_block)),
    ]

    reference = TransformersReference(checkpoint)
    traces = reference.run(
        [np.array(sequence.ids) for sequence, _ in judged],
        [positions for _, positions in judged],
        on_layer=lambda layer: on_step(1, f"reference layer {layer}"),
    )
    meters = {level: _meter(checkpoint, manifest, max_kl) for level in _levels(manifest)}
    for level, meter in meters.items():
        probe = Probe(folder, manifest, checkpoint.config, accuracy_level=level)
        for (sequence, positions), trace in zip(judged, traces, strict=True):
            found = probe.run(sequence.ids, positions=positions)
            meter.add(
                sequence.kind,
                sequence.ids,
                sequence.scored_from,
                sequence.scored_bytes,
                trace,
                found,
            )
            if sequence is first and level is None:
                decoded = probe.run(sequence.ids[:DECODED_TOKENS], chunk=1).logits
                meter.add_decode(found.logits[: len(decoded)], decoded)
            on_step(1, f"engine, {sequence.kind} text")
        del probe  # before the next session takes as much memory again
    served = meters[None].report()
    return Certificate(
        report=served,
        weights_only_kl=meters[0].report().logits.kl_mean if 0 in meters else None,
        versions={**_versions(), **reference.versions()},
        text={
            "source": str(text.name) if text else "built-in",
            "sequences": len(sequences),
            "tokens": sum(len(sequence.ids) for sequence in sequences),
            "far_position": FAR_POSITION,
        },
        checkpoint=digest,
    )


def far_positions(count: int, block: int) -> NDArray[np.int64]:
    """Return positions whose second half is `FAR_POSITION` further on.

    Attention depends on differences of positions: only across a gap do the slow frequencies count,
    which are the ones that YaRN changes.
    """
    half = count // 2 // block * block
    return np.arange(count) + np.where(np.arange(count) < half, 0, FAR_POSITION)


def count_steps(checkpoint: Checkpoint, manifest: Manifest, max_tokens: int) -> int:
    """Return about how many times ``on_step`` will be called."""
    sequences = max(1, max_tokens // 200) + 1
    return checkpoint.config.num_hidden_layers + sequences * len(_levels(manifest))


def _levels(manifest: Manifest) -> tuple[int | None, ...]:
    """Return the accuracy levels to run: as it serves (None), and with float32 activations."""
    return (None, 0) if manifest.recipe.get("accuracy_level") else (None,)


def _meter(checkpoint: Checkpoint, manifest: Manifest, max_kl: float | None) -> ParityMeter:
    # A cache of 8 bits rounds what attention sees, so float32 weights are held to its gate with it.
    weights, cache = str(manifest.recipe["weights"]), str(manifest.recipe["cache"])
    precision = cache if weights == "fp32" else weights
    return ParityMeter(checkpoint.config, precision, max_kl=max_kl)


def _versions() -> dict[str, str]:
    import onnxruntime

    return {
        "trtcoder": __version__,
        "onnxruntime": str(onnxruntime.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
