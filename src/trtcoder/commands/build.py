"""`trtcoder build`: a checkpoint becomes a verified engine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from trtcoder.export.verify import Certificate


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The engine's folder.")
@click.option(
    "--weights",
    type=click.Choice(["fp32", "fp8", "int8", "int4"]),
    default="int4",
    show_default=True,
    help="Precision of the weights.",
)
@click.option(
    "--block-size", default=32, show_default=True, help="Weights that share a scale: 16, 32, 64…"
)
@click.option("--symmetric/--zero-points", default=True, help="Store zero points of blocks or not.")
@click.option(
    "--fp8-scales",
    type=click.Choice(["block", "tensor"]),
    help="What shares a scale with --weights fp8: 128 x 128 weights (the default), or a matrix.",
)
@click.option(
    "--activations",
    type=click.Choice(["float", "static", "dynamic"]),
    help="What products with --weights fp8 take: float32, or fp8 with scales from calibration or "
    "of each token (the default).",
)
@click.option(
    "--cache",
    type=click.Choice(["fp32", "int8", "fp8"]),
    default="fp32",
    show_default=True,
    help="Precision of the latent cache.",
)
@click.option(
    "--accuracy-level",
    type=click.Choice(["0", "4"]),
    default="4",
    show_default=True,
    help="4 rounds activations to int8 in the kernels, which is about twice as fast; 0 does not.",
)
@click.option(
    "--fim/--no-fim", default=None, help="Whether the model fills in the middle; known by default."
)
@click.option("--text", type=click.Path(path_type=Path), help="Held-out text, as JSON lines.")
@click.option(
    "--tokens", default=2048, show_default=True, help="Tokens of held-out text to compare on."
)
@click.option("--max-kl", type=float, help="Fail when the mean KL exceeds this, in nats.")
@click.option("--force", is_flag=True, help="Replace an engine that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build(
    checkpoint: Path,
    out: Path,
    weights: str,
    block_size: int,
    symmetric: bool,
    fp8_scales: str | None,
    activations: str | None,
    cache: str,
    accuracy_level: str,
    fim: bool | None,
    text: Path | None,
    tokens: int,
    max_kl: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert CHECKPOINT into an engine and verify it against the checkpoint.

    The engine appears in the folder --out only if it passes; the comparison is in its parity.json.
    An engine that does not pass leaves nothing but OUT.parity.json.
    """
    from trtcoder.bundle import BundleWriter
    from trtcoder.checkpoint import Checkpoint
    from trtcoder.export.build import copy_tokenizer, describe, plan_graph, write_graph
    from trtcoder.export.recipe import preset
    from trtcoder.export.tokens import read_prompting
    from trtcoder.export.verify import FILE_NAME, count_steps, verify_engine
    from trtcoder.progress import byte_progress, step_progress

    recipe = preset(
        weights,
        block_size=block_size,
        symmetric=symmetric,
        cache=cache,
        accuracy_level=int(accuracy_level),
        fp8_scales=fp8_scales,
        activations=activations,
    )
    source = Checkpoint.open(checkpoint)
    prompting = read_prompting(source, fim)
    for note in prompting.notes:
        click.echo(note, err=True)
    with BundleWriter(out, force=force) as writer:
        graph = plan_graph(source, recipe)
        for name, padding in graph.b.padded.items():
            click.echo(f"{name}: width {padding}, a multiple of the block", err=True)
        with byte_progress("hashing", source.nbytes) as advance:
            digest = source.digest(advance)
        with byte_progress("converting", sum(step.nbytes for step in graph.b.steps)) as advance:
            write_graph(graph.b, writer.folder, lambda step: advance(step.nbytes, step.key))
        copy_tokenizer(source, writer.folder)
        manifest = describe(graph, prompting, digest)
        with step_progress("verifying", count_steps(source, manifest, tokens)) as advance:
            certificate = verify_engine(
                writer.folder,
                manifest,
                source,
                digest,
                max_tokens=tokens,
                text=text,
                max_kl=max_kl,
                on_step=advance,
            )
        refuse_failure(certificate, out)
        (writer.folder / FILE_NAME).write_text(certificate.to_json(), encoding="utf-8")
        manifest = writer.commit(dataclasses.replace(manifest, parity=certificate.summary()))
    if as_json:
        size = sum(info.bytes for info in manifest.files.values())
        result = {"engine": str(out), "bytes": size, "parity": certificate.to_dict()}
        click.echo(json.dumps(result))
        return
    show(certificate)
    click.echo(f"built {out}")


def refuse_failure(certificate: Certificate, out: Path) -> None:
    """Leave the report beside where the engine would be, and raise, when a gate is missed."""
    from trtcoder.errors import ParityError

    report = out.with_name(f"{out.name}.parity.json")
    if certificate.report.verdict != "failed":
        report.unlink(missing_ok=True)
        return
    report.write_text(certificate.to_json(), encoding="utf-8")
    show(certificate)
    missed = "; ".join(
        f"{gate.name} is {gate.measured:.3g}, limit {gate.limit:.3g}"
        for gate in certificate.report.gates
        if gate.passed is False and gate.limit is not None
    )
    raise ParityError(
        f"{out}: not built, it misses its parity gate: {missed or 'values are not finite'}; "
        f"the comparison is in {report}"
    )


def show(certificate: Certificate) -> None:
    """Print the certificate as a table."""
    from trtcoder.export.parity import render_table

    click.echo(render_table(certificate.report))
    if certificate.weights_only_kl is not None:
        click.echo(f"KL with float32 activations: {certificate.weights_only_kl:.3e}")
