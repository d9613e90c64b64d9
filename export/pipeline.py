"""The whole build of one engine: plan, calibrate, convert, verify, and keep it if it passes."""

from __future__ import annotations

import dataclasses
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtcoder.bundle.certificate import FILE_NAME, Certificate
from trtcoder.bundle.manifest import Manifest
from trtcoder.bundle.provenance import Provenance
from trtcoder.bundle.writer import BundleWriter
from trtcoder.calib.storage.record import merge
from trtcoder.calib.text.heldout import load_heldout
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError, ParityError
from trtcoder.export.calibration.calibrate import Calibration
from trtcoder.export.conversion import Say, convert
from trtcoder.export.parity.table import render_certificate, shown
from trtcoder.export.parity.verify import count_steps, verify_engine
from trtcoder.export.reference.registry import open_reference
from trtcoder.export.request import BuildRequest
from trtcoder.export.targets.registry import find_target
from trtcoder.progress import step_progress
from trtcoder.prompting.source import Prompting


@dataclass(frozen=True, slots=True)
class Built:
    """A build's outcome.

    Attributes:
        manifest: the engine's.
        certificate: the comparison.
        seconds: time of each phase: ``convert``, ``verify``, ``commit``.
        hashes: sha256 of files that were hashed while they were written.
        peak_rss: this process's largest resident memory, in bytes, at the end of each phase.
    """

    manifest: Manifest
    certificate: Certificate
    hashes: dict[str, str]
    seconds: dict[str, float]
    peak_rss: dict[str, int]

    def to_dict(self, out: Path | None) -> dict[str, Any]:
        """Return what ``--json`` prints; ``out`` is None where no engine was left."""
        return {
            "engine": None if out is None else str(out),
            "bytes": sum(info.bytes for info in self.manifest.files.values()),
            "seconds": {phase: round(value, 2) for phase, value in self.seconds.items()},
            "peak_rss_bytes": self.peak_rss,
            "parity": self.certificate.to_dict(),
        }


def build_engine(
    source: Checkpoint, prompting: Prompting, request: BuildRequest, writer: BundleWriter, say: Say
) -> Built:
    """Build and verify an engine in ``writer``'s folder and move it to its place.

    Raises:
        ParityError: it misses a gate; the report is left beside where the engine would be.
        BuildError: it cannot be built as asked, or the disk is full.
        CheckpointError: a shard cannot be read.
    """
    return commit(make_engine(source, prompting, request, writer, say), writer, request.gated)


def make_engine(
    source: Checkpoint, prompting: Prompting, request: BuildRequest, writer: BundleWriter, say: Say
) -> Built:
    """Convert and compare; the engine stays in ``writer``'s folder whatever the outcome."""
    started = time.monotonic()
    # What the reference cannot judge and what is wrong with the held-out text is said first, and
    # does not wait for the conversion to end.
    open_reference(source)
    load_heldout(prompting.prompts(), request.tokens, request.text, request.part)
    calibration = None
    if request.method != "rtn" or request.recipe.activations == "static":
        calibration = Calibration(
            source, request.calibration_text(prompting), request.method, writer.workspace,
            minimum=request.minimum,
        )  # fmt: skip
    quantizer = calibration.quantizer if calibration else None
    plan = find_target(request.target).plan(source, request.recipe, quantizer)
    for name, padding in plan.weights.padded.items():
        say(f"{name}: width {padding}, a multiple of the block")
    written = convert(plan, writer, calibration, say)
    manifest = plan.manifest(prompting, source.combine(written.digests), request.method)
    converted, converted_rss = time.monotonic(), _peak_rss()
    provenance = Provenance(
        tuple(record.stated() for record in merge(written.records)),
        calibration.stated() if calibration else None,
    )
    certificate = verify(source, manifest, request, writer, provenance)
    seconds = {"convert": converted - started, "verify": time.monotonic() - converted}
    return Built(
        manifest,
        certificate,
        hashes=written.hashes,
        seconds=seconds,
        peak_rss={"convert": converted_rss, "verify": _peak_rss()},
    )


def verify(
    source: Checkpoint,
    manifest: Manifest,
    request: BuildRequest,
    writer: BundleWriter,
    provenance: Provenance,
) -> Certificate:
    """Compare the engine in ``writer``'s folder with the reference, on the text of ``request``.

    ``provenance`` goes into the certificate as it is.
    """
    with step_progress("verifying", count_steps(source, manifest, request.tokens)) as advance:
        return verify_engine(
            writer.folder,
            manifest,
            source,
            manifest.source.digest,
            max_tokens=request.tokens,
            text=request.text,
            part=request.part,
            max_kl=request.max_kl,
            provenance=provenance,
            on_step=advance,
        )


def commit(built: Built, writer: BundleWriter, gated: bool = True) -> Built:
    """Move an engine that passed, or is not ``gated``, to its place, with its certificate.

    Raises:
        ParityError: it did not pass; the report is left beside where the engine would be.
    """
    started, certificate = time.monotonic(), built.certificate
    verdict, finite = certificate.verdict, certificate.finite
    if verdict == "failed" and (gated or not finite):
        report = _leave_report(writer, certificate)
        writer.discard()
        missed = "; ".join(
            f"{gate.name} is {shown(gate, gate.measured)}, limit {shown(gate, gate.limit)}"
            for gate in certificate.gates
            if gate.passed is False and gate.limit is not None
        )
        raise ParityError(
            f"{writer.target}: not built, it misses its parity gate: "
            f"{missed or 'values are not finite'}; {report}",
            render_certificate(certificate),
            built.to_dict(None),
        )
    (writer.folder / FILE_NAME).write_text(certificate.to_json(), encoding="utf-8")
    manifest = dataclasses.replace(built.manifest, parity=certificate.summary())
    manifest = writer.commit(manifest, built.hashes)
    seconds = {**built.seconds, "commit": time.monotonic() - started}
    return dataclasses.replace(built, manifest=manifest, seconds=seconds)


def _leave_report(writer: BundleWriter, certificate: Certificate) -> str:
    """Write the certificate of an engine that failed beside its target; return where it is."""
    try:
        return f"the comparison is in {writer.leave_report(FILE_NAME, certificate.to_json())}"
    except BuildError as error:
        # The comparison is shown all the same, and why the engine is not there.
        return f"its comparison cannot be kept: {error}"


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
