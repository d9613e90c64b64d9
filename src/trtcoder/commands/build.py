"""`trtcoder build`: a checkpoint becomes a verified engine."""

from __future__ import annotations

from pathlib import Path

import click

from trtcoder.commands.numbers import SEED, TOKENS, above_zero
from trtcoder.commands.numbers import capabilities as capabilities_of
from trtcoder.commands.terminal import print_json, say, show


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The engine's folder.")
@click.option(
    "--target",
    type=click.Choice(
        ["onnx", "tensorrt-rtx", "tensorrt-llm", "compressed-tensors", "tensorrt-llm-engine"]
    ),
    default="onnx",
    show_default=True,
    help="The kind of engine: for ONNX Runtime; plans that are compiled for RTX GPUs; or a "
    "quantized checkpoint for GPU servers: fp8 or nvfp4 for TensorRT-LLM, vLLM and SGLang, or "
    "int4 for vLLM and SGLang. tensorrt-llm-engine says why TensorRT-LLM compiles none.",
)
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="What ONNX Runtime runs the engine on.",
)
@click.option(
    "--weights",
    type=click.Choice(["fp32", "fp8", "nvfp4", "int8", "int4", "mixed", "int4+fp8"]),
    help="Precision of the weights: int4 by default, mixed with --target-size or --max-kl alone, "
    "fp8 for tensorrt-llm, which takes nvfp4 as well. int4+fp8, for tensorrt-rtx: experts in int4, "
    "other matrices in fp8.",
)
@click.option(
    "--block-size",
    type=int,
    help="Weights that share a scale: 16, 32, 64…  [default: 32; 128 for tensorrt-rtx and "
    "compressed-tensors]",
)
@click.option("--symmetric/--zero-points", default=True, help="Store zero points of blocks or not.")
@click.option(
    "--fp8-scales",
    type=click.Choice(["block", "tensor"]),
    help="What shares a scale with --weights fp8: 128 x 128 weights (the default), or a matrix.",
)
@click.option(
    "--activations",
    type=click.Choice(["float", "static", "dynamic", "bf16", "fp16"]),
    help="What matmuls with --weights fp8 take: float32, or fp8 with scales from calibration or "
    "of each token (the default); with int4+fp8: float16 (float, the default) or fp8 with scales "
    "from calibration. With --provider cuda, what all layers compute in: bf16 (the default) or "
    "fp16.",
)
@click.option(
    "--cache",
    type=click.Choice(["fp32", "bf16", "fp16", "int8", "fp8"]),
    help="Precision of the latent cache: fp32 by default, and with --provider cuda that of the "
    "activations.",
)
@click.option(
    "--absorbed",
    type=click.Choice(["exact", "int8"]),
    default="exact",
    show_default=True,
    help="Precision of W_UK and W_UV, the halves of kv_b_proj that queries and outputs pass: the "
    "checkpoint's own values, or int8, which decodes faster.",
)
@click.option(
    "--accuracy-level",
    type=click.Choice(["0", "4"]),
    default="4",
    show_default=True,
    help="4 rounds activations to int8 in the kernels, which is about twice as fast; 0 does not.",
)
@click.option(
    "--compute-capability",
    "capabilities",
    callback=capabilities_of,
    help="Of --target tensorrt-rtx: the GPUs that plans run on.  [default: 86,89,120, and 89,120 "
    "with int4+fp8]",
)
@click.option(
    "--slots",
    type=int,
    help="Of --target tensorrt-rtx: answers that are computed at the same time.  [default: 8]",
)
@click.option(
    "--context",
    type=int,
    help="Of --target tensorrt-rtx: tokens of a prompt and its answer.  [default: 8192, or the "
    "model's]",
)
@click.option(
    "--chunk",
    type=int,
    help="Of --target tensorrt-rtx: most tokens of a prompt in one step.  [default: 512; fewer "
    "where attention would take more than 128 MiB]",
)
@click.option(
    "--weight-streaming",
    is_flag=True,
    help="Of --target tensorrt-rtx: let weights stay in the host's memory where the GPU has less.",
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
    help="Mean KL in nats that is kept: by the smallest mixed engine that does, searched on one "
    "half of the held-out text and judged on the other, or, where --weights names a precision, by "
    "refusing one that does not.",
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
    provider: str,
    weights: str | None,
    block_size: int | None,
    symmetric: bool,
    fp8_scales: str | None,
    activations: str | None,
    cache: str | None,
    absorbed: str,
    accuracy_level: str,
    capabilities: tuple[int, ...] | None,
    slots: int | None,
    context: int | None,
    chunk: int | None,
    weight_streaming: bool,
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

    from trtcoder.bundle.writer import BundleWriter
    from trtcoder.errors import ParityError
    from trtcoder.export.build import BuildOptions, plan_build
    from trtcoder.export.build import build as build_engine
    from trtcoder.export.compiling import Compiling
    from trtcoder.export.parity.table import render_certificate

    options = BuildOptions(
        target=target,
        provider=provider,
        weights=weights,
        block_size=block_size,
        symmetric=symmetric,
        fp8_scales=fp8_scales,
        activations=activations,
        cache=cache,
        absorbed=absorbed,
        accuracy_level=int(accuracy_level),
        fim=fim,
        method=method,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        min_expert_tokens=min_expert_tokens,
        seed=seed,
        text=text,
        tokens=tokens,
        max_kl=max_kl,
        target_size=target_size,
        gate=not no_gate,
        compiling=Compiling(
            capabilities=capabilities,
            slots=slots,
            context=context,
            chunk=chunk,
            weight_streaming=weight_streaming,
        ),
    )
    if dry_run:
        if out is not None:
            BundleWriter(out, force=force).check()
        found = plan_build(checkpoint, options)
        if as_json:
            print_json(found.to_dict())
        else:
            show(found.render())
        return
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    require_verify()
    try:
        built = build_engine(checkpoint, out, options, force=force, say=say)
    except ParityError as error:
        if as_json:
            print_json(error.outcome)
        else:
            show(error.table)
        raise
    if as_json:
        print_json(built.to_dict(Path(out).absolute()))
        return
    show(render_certificate(built.certificate))
    show(f"built {out}")
