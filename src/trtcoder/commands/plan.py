"""`trtcoder plan`: a model in stages over several machines, on paper."""

from __future__ import annotations

from pathlib import Path

import click

from trtcoder.commands.numbers import TOKENS
from trtcoder.commands.terminal import print_json, show

# As in trtcoder.export.scale.machines and layers, which are not imported for --help.
DEVICES = ("rtx-4090", "rtx-5090", "rtx-6000-ada", "rtx-pro-6000", "gb10", "h100", "h200")
LINKS = ("10gbe", "100gbe", "200gbe", "pcie4", "pcie5", "nvlink4")
CACHES = ("fp32", "bf16", "fp8", "int8")
_ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
_SHARE = click.FloatRange(min=0, max=1, min_open=True)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--stages",
    type=click.IntRange(1, 1024),
    multiple=True,
    default=(2, 4, 8),
    show_default=True,
    help="Into how many stages the layers are cut. Repeatable.",
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="rtx-pro-6000",
    show_default=True,
    help="What each stage runs on, with its maker's numbers.",
)
@click.option(
    "--link",
    type=click.Choice(LINKS),
    default="100gbe",
    show_default=True,
    help="What connects the stages.",
)
@click.option("--memory-gb", type=_ABOVE_ZERO, help="Of the device, instead of its maker's number.")
@click.option("--bandwidth-gbs", type=_ABOVE_ZERO, help="Of its memory, GB a second, instead.")
@click.option("--compute-tflops", type=_ABOVE_ZERO, help="Of it, instead.")
@click.option("--link-gbs", type=_ABOVE_ZERO, help="Of the link, GB a second, instead.")
@click.option("--link-us", type=click.FloatRange(min=0), help="Its latency, microseconds, instead.")
@click.option(
    "--weights",
    type=click.Choice(["fp32", "fp8", "int8", "int4"]),
    default="int4",
    show_default=True,
    help="Precision of the weights.",
)
@click.option("--block-size", default=32, show_default=True, help="Weights that share a scale.")
@click.option(
    "--cache",
    type=click.Choice(CACHES),
    default="bf16",
    show_default=True,
    help="Precision of the latent cache.",
)
@click.option(
    "--streams", type=TOKENS, default=16, show_default=True, help="Answers at the same time."
)
@click.option(
    "--context", type=TOKENS, default=8192, show_default=True, help="Tokens in the cache of each."
)
@click.option(
    "--prompt", type=TOKENS, default=8192, show_default=True, help="Tokens of a prompt read alone."
)
@click.option("--chunk", type=TOKENS, default=512, show_default=True, help="Of it, in one step.")
@click.option(
    "--efficiency",
    type=_SHARE,
    default=0.6,
    show_default=True,
    help="The share of all peaks that is reached.",
)
@click.option(
    "--usable",
    type=_SHARE,
    default=0.9,
    show_default=True,
    help="The share of the memory that a stage may take.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def plan(
    config: Path,
    stages: tuple[int, ...],
    device: str,
    link: str,
    memory_gb: float | None,
    bandwidth_gbs: float | None,
    compute_tflops: float | None,
    link_gbs: float | None,
    link_us: float | None,
    weights: str,
    block_size: int,
    cache: str,
    streams: int,
    context: int,
    prompt: int,
    chunk: int,
    efficiency: float,
    usable: float,
    as_json: bool,
) -> None:
    """Plan the model of CONFIG in stages over several machines, and simulate them.

    CONFIG is a checkpoint's folder, of which only config.json is read. Nothing runs: memory is that
    of the engine as it would be built, and speeds follow from the numbers of device and link.
    """
    from trtcoder.commands.needs import require_build

    require_build()

    from trtcoder.checkpoint.reader import Checkpoint
    from trtcoder.errors import RequestError
    from trtcoder.export.recipe import preset
    from trtcoder.export.scale.forecast import forecast
    from trtcoder.export.scale.layers import read_layers
    from trtcoder.export.scale.machines import GB, TB, choose
    from trtcoder.export.scale.stages import Setting, Work

    source = Checkpoint.describe(config)
    longest = source.config.max_position_embeddings
    for name, tokens in (("--context", context), ("--prompt", prompt)):
        if tokens > longest:
            raise RequestError(f"{name}: {tokens:,} is beyond the model's context of {longest:,}")
    chosen = choose(
        device,
        link,
        memory=None if memory_gb is None else memory_gb * GB,
        bandwidth=None if bandwidth_gbs is None else bandwidth_gbs * GB,
        compute=None if compute_tflops is None else compute_tflops * TB,
        link_bandwidth=None if link_gbs is None else link_gbs * GB,
        latency=None if link_us is None else link_us * 1e-6,
    )
    found = forecast(
        read_layers(source, preset(weights, block_size=block_size), cache),
        stages,
        Setting(*chosen, efficiency, usable),
        Work(streams, context, prompt, chunk),
    )
    if as_json:
        print_json(found.to_dict())
    else:
        show(found.render())
