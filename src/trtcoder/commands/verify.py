"""`trtcoder verify`: an engine against its checkpoint's reference logits."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import click

from trtcoder.commands.numbers import TOKENS, above_zero
from trtcoder.commands.terminal import print_json, say, show


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    required=True,
    help="The checkpoint that the engine was built from.",
)
@click.option("--text", type=click.Path(path_type=Path), help="Held-out text, as JSON lines.")
@click.option(
    "--tokens",
    type=TOKENS,
    default=2048,
    show_default=True,
    help="Tokens of held-out text to compare on.",
)
@click.option(
    "--max-kl",
    type=float,
    callback=above_zero,
    help="Fail when the mean KL exceeds this, in nats.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Where to write the comparison, or - for standard output.  [default: ENGINE's name with "
    ".parity.json, in this folder]",
)
@click.option("--force", is_flag=True, help="Replace a report that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def verify(
    engine: Path,
    reference: Path,
    text: Path | None,
    tokens: int,
    max_kl: float | None,
    report: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compare ENGINE with its checkpoint on held-out text; exit with 1 when a gate is missed.

    The text is a file of JSON lines: {"kind": "plain", "text": …}, {"kind": "fim", "prefix": …,
    "suffix": …, "middle": …} or {"kind": "chat", "messages": […]}.
    """
    from trtcoder.commands.needs import require_build, require_verify
    from trtcoder.output_file import OutputFile

    require_build()
    require_verify()
    target = None
    if str(report) != "-":
        path = report or Path(f"{Path(os.path.realpath(engine)).name}.parity.json")
        target = OutputFile.check(path, "--report", force=force, inputs=[engine, reference, text])

    from trtcoder.bundle.certificate import EvaluationFile, known_provenance
    from trtcoder.bundle.folder import Bundle
    from trtcoder.bundle.scores import FILE_NAME as SCORES
    from trtcoder.calib.text.heldout import load_heldout
    from trtcoder.checkpoint.reader import Checkpoint
    from trtcoder.errors import ParityError
    from trtcoder.export.parity.table import render_certificate
    from trtcoder.export.parity.verify import count_steps, judging_part, verify_engine
    from trtcoder.export.reference.registry import open_reference
    from trtcoder.progress import byte_progress, step_progress
    from trtcoder.prompting.prompts import Prompts

    bundle = Bundle.load(engine)
    source = Checkpoint.open(reference)
    for note in source.notes:
        say(note)
    built = known_provenance(bundle.folder)
    part = judging_part(built.plan, text)
    load_heldout(Prompts.load(bundle.folder, bundle.manifest), tokens, text, part)
    open_reference(source)  # what it cannot judge is said before the checkpoint is hashed
    with byte_progress("hashing", source.nbytes) as advance:
        digest = source.digest(advance)
    with step_progress("verifying", count_steps(source, bundle.manifest, tokens)) as advance:
        certificate = verify_engine(
            bundle.folder,
            bundle.manifest,
            source,
            digest,
            max_tokens=tokens,
            text=text,
            part=part,
            max_kl=max_kl,
            on_step=advance,
            provenance=built,
        )
    scores = bundle.manifest.files.get(SCORES)
    if scores is not None:
        link = EvaluationFile(SCORES, scores.sha256)
        certificate = dataclasses.replace(certificate, evaluation=link)
    if target is not None:
        target.write(certificate.to_json())
    if as_json or target is None:
        print_json(certificate.to_dict())
    else:
        show(f"{render_certificate(certificate)}\nwritten to {target.path}")
    if certificate.verdict == "failed":
        where = "" if target is None else f"; see {target.path}"
        raise ParityError(f"{engine}: misses its parity gate{where}")
