"""`trtcoder build`: a checkpoint becomes a verified engine."""

from __future__ import annotations

from pathlib import Path

import click

from trtcoder.commands.numbers import SEED, TOKENS, above_zero
from trtcoder.commands.terminal import print_json, say, show


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The engine's folder.")
@click.option(
    "--target",
    type=click.Choice(["onnx"]),
    default="onnx",
    show_default=True,
    help="The kind of engine: for ONNX Runtime.",
)
@click.option(
    "--weights",
    type=click.Choice(["fp32", "fp8", "int8", "int4", "mixed"]),
    help="Precision of the weights: int4 by default, mixed with --target-size or --max-kl alone.",
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
@click.option(
    "--method",
    type=click.Choice(["rtn", "clip", "awq", "gptq", "awq+gptq"]),
    default="rtn",
    show_default=True,
    help="What chooses the stored values; all but rtn look at calibration text.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Text that calibrates: a folder of source files, or JSON lines. Built in by default.",
)
@click.option(
    "--calibration-tokens",
    type=TOKENS,
    default=16384,
    show_default=True,
    help="How much of it is used.",
)
@click.option(
    "--min-expert-tokens",
    type=TOKENS,
    default=32,
    show_default=True,
    help="An expert that fewer calibration tokens reach is rounded to nearest, and named.",
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Shuffles and cuts calibration text."
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
    help="Mean KL in nats that is kept: by the smallest mixed engine that does, or, where "
    "--weights names a precision, by refusing one that does not.",
)
@click.option(
    "--target-size",
    type=int,
    callback=above_zero,
    help="Bytes that the engine may take; the best mixed one is built.",
)
@click.option(
    "--no-gate",
    is_flag=True,
    help="Keep an engine that misses its gate or is broken; its certificate says so.",
)
@click.option("--force", is_flag=True, help="Replace an engine that is there.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be made and what it takes; of CHECKPOINT only config.json is read.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build(
    checkpoint: Path,
    out: Path | None,
    target: str,
    weights: str | None,
    block_size: int,
    symmetric: bool,
    fp8_scales: str | None,
    activations: str | None,
    cache: str,
    accuracy_level: str,
    fim: bool | None,
    method: str,
    calibration: Path | None,
    calibration_tokens: int,
    min_expert_tokens: int,
    seed: int,
    text: Path | None,
    tokens: int,
    max_kl: float | None,
    target_size: int | None,
    no_gate: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert CHECKPOINT into an engine and verify it against the checkpoint.

    The engine appears in the folder --out only if it passes; the comparison is in its parity.json.
    An engine that does not pass leaves nothing but OUT.parity.json (or OUT.parity.2.json, where
    that file is there already).
    """
    from trtcoder.commands.needs import require_build, require_verify

    if no_gate and max_kl is not None:
        raise click.UsageError("--no-gate keeps what --max-kl refuses; give one of them.")
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out'.")
    require_build()

    from trtcoder.bundle.provenance import Goal
    from trtcoder.bundle.writer import BundleWriter
    from trtcoder.checkpoint.reader import Checkpoint
    from trtcoder.errors import ParityError
    from trtcoder.export.parity.table import render_certificate
    from trtcoder.export.pipeline import BuildRequest, build_engine
    from trtcoder.export.precision.mixed import build_mixed, check_goal
    from trtcoder.export.precision.sizing import estimate
    from trtcoder.export.recipe import preset
    from trtcoder.export.targets.registry import find_target
    from trtcoder.prompting.source import read_prompting
    from trtcoder.room import check_disk, memory_note

    if weights is None:
        weights = "int4" if max_kl is None and target_size is None else "mixed"
    goal = Goal(max_kl, target_size)
    check_goal(goal, weights)
    recipe = preset(
        weights,
        block_size=block_size,
        symmetric=symmetric,
        cache=cache,
        accuracy_level=int(accuracy_level),
        fp8_scales=fp8_scales,
        activations=activations,
    )
    request = BuildRequest(
        recipe, method, calibration, calibration_tokens, min_expert_tokens, seed, text, tokens,
        max_kl, not no_gate, target,
    )  # fmt: skip
    planner = find_target(target)
    request.check_text()
    writer = None if out is None else BundleWriter(out, force=force, say=say)
    if writer is not None:
        writer.check()
    if dry_run:
        found = estimate(planner.plan(Checkpoint.describe(checkpoint), recipe))
        if as_json:
            print_json(found.to_dict())
        else:
            show(found.render())
        return
    if writer is None:
        raise click.UsageError("Missing option '--out'.")
    require_verify()
    from trtcoder.export.reference.transformers_modules import import_modules

    source = Checkpoint.open(checkpoint)
    prompting = read_prompting(source, fim)
    for note in (*source.notes, *prompting.notes):
        say(note)
    expected = estimate(planner.plan(source, recipe))
    check_disk(writer.target, expected.written, writer.workspace_bytes)
    warning = memory_note("converting", expected.memory)
    if warning is not None:
        say(warning)
    import_modules()
    with writer:
        try:
            if weights == "mixed":
                built = build_mixed(source, prompting, request, goal, writer, say)
            else:
                built = build_engine(source, prompting, request, writer, say)
        except ParityError as error:
            if as_json:
                print_json(error.outcome)
            else:
                show(error.table)
            raise
    if as_json:
        print_json(built.to_dict(writer.target))
        return
    show(render_certificate(built.certificate))
    show(f"built {out}")
