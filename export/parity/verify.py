"""Holds an engine against reference logits, and makes its certificate.

Reference and engine advance together: all sequences pass a layer of the one, then of the other,
and what they computed is compared and dropped. One layer's weights are in memory at a time.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtcoder import __version__
from trtcoder.bundle.certificate import Certificate, ReferenceInfo
from trtcoder.bundle.manifest import Manifest
from trtcoder.bundle.provenance import HeldOutText, Plan, Provenance
from trtcoder.calib.text.examples import EncodedText
from trtcoder.calib.text.heldout import Part, load_heldout
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.cores import library_threads
from trtcoder.errors import EngineError
from trtcoder.export.parity.meter import ParityMeter, SequenceParity
from trtcoder.export.parity.probe import Probe
from trtcoder.export.reference.registry import Reference, open_reference
from trtcoder.export.targets.registry import find_target
from trtcoder.model.architecture import ModelConfig
from trtcoder.prompting.prompts import Prompts

# Twice the context that the published models had before YaRN.
FAR_POSITION = 8192
DECODED_TOKENS = 64

OnStep = Callable[[int, str], None]
Judged = Sequence[tuple[EncodedText, NDArray[np.int64]]]


@dataclass(slots=True)
class _Side:
    """The engine with one accuracy level, on its way through the text."""

    name: str
    probe: Probe[Any]
    meter: ParityMeter
    states: list[Any]
    comparisons: list[SequenceParity]


def verify_engine(
    folder: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    digest: str,
    *,
    max_tokens: int,
    text: Path | None = None,
    part: Part | None = None,
    max_kl: float | None = None,
    on_step: OnStep = lambda amount, item: None,
    provenance: Provenance | None = None,
) -> Certificate:
    """Compare the engine in ``folder`` with the reference on held-out text.

    ``digest`` is the checkpoint's; ``on_step`` is told of each layer of the reference and of the
    engine, and each sequence's logits (`count_steps` says how many there are). ``part`` is the half
    of the text that is compared, all of it if None. ``provenance`` goes into the certificate as it
    is.

    Raises:
        EngineError: the engine was built from another checkpoint.
        DependencyError: a package of the reference is missing.
        RequestError: the held-out text cannot be used.
    """
    if digest != manifest.source.digest:
        raise EngineError(
            f"{folder}: was built from checkpoint {manifest.source.digest[:16]}…, not from "
            f"{checkpoint.folder} ({digest[:16]}…); give the checkpoint that it was built from"
        )
    sequences = load_heldout(Prompts.load(folder, manifest), max_tokens, text, part)
    target, config = find_target(manifest.target), checkpoint.config
    probes = {
        level: target.probe(folder, manifest, config, accuracy_level=level)
        for level in target.probe_levels(manifest)
    }
    first = sequences[0]
    far = EncodedText("far", first.ids, first.scored_from, first.scored_bytes)
    judged = [
        *((sequence, np.arange(len(sequence.ids))) for sequence in sequences),
        (far, far_positions(len(far.ids), probes[None].block)),
    ]
    reference = open_reference(checkpoint)
    sides = {
        level: _side(probe, manifest, config, level, judged, max_kl)
        for level, probe in probes.items()
    }
    with library_threads():
        _compare(reference, config.num_hidden_layers, list(sides.values()), judged, on_step)
    found, known = sides[None].meter.report(), provenance or Provenance()
    return Certificate(
        precision=found.precision,
        verdict=found.verdict,
        quality=found.quality,
        gates=found.gates,
        logits=found.logits,
        layers=found.layers,
        texts=found.texts,
        reference=ReferenceInfo(
            digest,
            {
                **_versions(),
                **probes[None].versions(),
                **reference.versions(),
            },
        ),
        text=HeldOutText(
            source=_source_name(text),
            sequences=len(sequences),
            tokens=sum(len(sequence.ids) for sequence in sequences),
            far_position=FAR_POSITION,
            part=None if part is None else part.value,
        ),
        weights_only_kl=sides[0].meter.report().logits.kl_mean if 0 in sides else None,
        tensors=known.tensors,
        calibration=known.calibration,
        plan=known.plan,
    )


def _side(
    probe: Probe[Any],
    manifest: Manifest,
    config: ModelConfig,
    level: int | None,
    judged: Judged,
    max_kl: float | None,
) -> _Side:
    # A cache of 8 bits rounds what attention sees, so float32 weights are held to its gate with it.
    weights, cache = str(manifest.recipe["weights"]), str(manifest.recipe["cache"])
    precision = cache if weights == "fp32" else weights
    meter = ParityMeter(config, precision, max_kl=max_kl)
    states = [probe.start(sequence.ids, positions) for sequence, positions in judged]
    if level is None:  # one more, behind those that are judged: decoded token by token
        states.append(probe.start(judged[0][0].ids[:DECODED_TOKENS], chunk=1))
    return _Side(
        "engine" if level is None else f"engine, accuracy level {level}",
        probe,
        meter,
        states,
        [
            meter.sequence(text.kind, text.ids, text.scored_from, text.scored_bytes)
            for text, _ in judged
        ],
    )


def _compare(
    reference: Reference[Any], layers: int, sides: list[_Side], judged: Judged, on_step: OnStep
) -> None:
    """Run all sequences through the reference and the sides, and compare as they advance."""
    states = [reference.embed(np.array(text.ids), positions) for text, positions in judged]
    for side in sides:
        side.probe.embed(side.states)
    for layer in range(layers):
        wanted = reference.run_layer(layer, states)
        on_step(1, f"layer {layer}, reference")
        for side in sides:
            found = side.probe.run_layer(layer, side.states)
            # The decoded sequence is compared by its logits alone.
            for comparison, ours, theirs in zip(side.comparisons, wanted, found, strict=False):
                comparison.add_layer(layer, ours, theirs)
            on_step(1, f"layer {layer}, {side.name}")
    heads = [side.probe.logits(side.states) for side in sides]
    prefilled: NDArray[np.float32] | None = None
    for index, logits in enumerate(reference.logits(states)):
        for side, head in zip(sides, heads, strict=True):
            found_logits = next(head)
            side.comparisons[index].add_logits(logits, found_logits)
            if prefilled is None:
                prefilled = found_logits[:DECODED_TOKENS].copy()
        on_step(1, f"logits, {judged[index][0].kind} text")
    if prefilled is not None:
        sides[0].meter.add_decode(prefilled, next(heads[0]))


def judging_part(plan: Plan | None, text: Path | None) -> Part | None:
    """Return which half of ``text`` may judge an engine; None is all of it.

    ``plan`` is the engine's: what its precision was searched on does not judge it. The built-in
    text is meant where ``text`` is None.
    """
    searched = None if plan is None else plan.search_text
    return Part.JUDGED if searched is not None and searched.source == _source_name(text) else None


def _source_name(text: Path | None) -> str:
    return "built-in" if text is None else text.name


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
    sides = len(find_target(manifest.target).probe_levels(manifest))
    return checkpoint.config.num_hidden_layers * (1 + sides) + sequences


def _versions() -> dict[str, str]:
    return {
        "trtcoder": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
