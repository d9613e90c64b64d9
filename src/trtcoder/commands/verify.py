"""`trtcoder verify`: an engine against its checkpoint's reference logits."""

from __future__ import annotations

import json
from pathlib import Path

import click


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
    "--tokens", default=2048, show_default=True, help="Tokens of held-out text to compare on."
)
@click.option("--max-kl", type=float, help="Fail when the mean KL exceeds this, in nats.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    default=Path("parity.json"),
    show_default=True,
    help="Where to write the comparison.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def verify(
    engine: Path,
    reference: Path,
    text: Path | None,
    tokens: int,
    max_kl: float | None,
    report: Path,
    as_json: bool,
) -> None:
    """Compare ENGINE with its checkpoint on held-out text; exit with 1 when a gate is missed.

    The text is a file of JSON lines: {"kind": "plain", "text": …}, {"kind": "fim", "prefix": …,
    "suffix": …, "middle": …} or {"kind": "chat", "messages": […]}.
    """
    from trtcoder.bundle.folder import Bundle
    from trtcoder.checkpoint.reader import Checkpoint
    from trtcoder.errors import ParityError
    from trtcoder.export.parity.certificate import Provenance
    from trtcoder.export.parity.verify import count_steps, verify_engine
    from trtcoder.progress import byte_progress, step_progress

    bundle = Bundle.load(engine)
    built = Provenance.of_engine(bundle.folder)
    source = Checkpoint.open(reference)
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
            max_kl=max_kl,
            on_step=advance,
            records=built.tensors,
            calibration=built.calibration,
            plan=built.plan,
        )
    report.write_text(certificate.to_json(), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(certificate.to_dict()))
    else:
        click.echo(certificate.render())
        click.echo(f"written to {report}")
    if certificate.report.verdict == "failed":
        raise ParityError(f"{engine}: misses its parity gate; see {report}")
