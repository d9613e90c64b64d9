"""What compiling plans takes, at the published widths: time, memory, size. No GPU, no checkpoint.

Weights are random codes, written where a build would put them: a compiler's work depends on their
number and not on their values. Needs TensorRT-RTX (`make rtx`), 7 GB of memory and 5 GB of disk.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.record import keep
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.compiling import Compiling
from trtcoder.export.recipe import RecipeOptions
from trtcoder.export.targets.tensorrt_rtx.compilation import compile_plans
from trtcoder.export.targets.tensorrt_rtx.plan import RtxPlan
from trtcoder.export.targets.tensorrt_rtx.target import TensorRtRtx
from trtcoder.export.weights.data_file import Placed
from trtcoder.export.weights.plan import DType
from trtcoder.tables import render_table
from trtcoder.tensorrt_rtx.libraries import PACKAGE, PLUGIN_PACKAGE
from trtcoder.testing.random_checkpoint import PRESETS

_SLICE = 1 << 26
_SCALE = np.float16(0.01)


@click.command()
@click.option("--model", type=click.Choice(list(PRESETS)), default="lite", show_default=True)
@click.option("--layers", type=int, default=7, show_default=True)
@click.option("--gpus", default="86,89,120", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for its files.")
@click.option("--weight-streaming", is_flag=True)
def main(model: str, layers: int, gpus: str, out: Path | None, weight_streaming: bool) -> None:
    """Compile a model of so many layers, and say what each plan took."""
    capabilities = tuple(int(each) for each in gpus.split(","))
    config = PRESETS[model] | {"num_hidden_layers": layers}
    with tempfile.TemporaryDirectory(dir=out) as root:
        folder = Path(root) / "engine"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        plan = described(folder, capabilities, weight_streaming)
        for name, placed in plan.placed.items():
            fill(folder / name, placed)
        for stage in plan.stages:
            stage.save(folder)
        sizes = {stage.info: plan.placed[stage.data_file].size for stage in plan.stages}
        made = compile_plans(folder, sizes, plan.compilation)
        rows: list[dict[str, Any]] = [
            {
                "plan": info.file,
                "weights_bytes": size,
                "plan_bytes": (folder / info.file).stat().st_size,
                "seconds": round(made[info.file].seconds, 1),
                "peak_rss_bytes": made[info.file].peak_rss,
                "activation_bytes": list(made[info.file].activations),
            }
            for info, size in sizes.items()
        ]
    show(rows)
    shapes = plan.compilation.shapes
    figures = {
        "model": model,
        "layers": layers,
        "gpus": list(capabilities),
        "slots": shapes.slots,
        "context": shapes.context,
        "chunk": shapes.chunk,
        "weight_streaming": weight_streaming,
        "plans": rows,
    }
    keep(f"plans-{model}", figures, PACKAGE, PLUGIN_PACKAGE)


def described(folder: Path, capabilities: tuple[int, ...], weight_streaming: bool) -> RtxPlan:
    """Return the plan of a model of which there is only its config.json."""
    target = TensorRtRtx()
    compiling = Compiling(capabilities=capabilities, weight_streaming=weight_streaming)
    recipe = target.recipe(RecipeOptions(weights="int4", compiling=compiling))
    return target.plan(Checkpoint.describe(folder), recipe)


def fill(path: Path, placed: Placed) -> None:
    """Write a data file of random codes, scales of one value, and ones."""
    codes = np.random.default_rng(0).bytes(2 * _SLICE)
    path.touch()
    with path.open("r+b") as file:
        file.truncate(placed.size)
        for index, (name, weight) in enumerate(placed.weights.items()):
            file.seek(placed.offsets[name])
            # No two alike: a plan has equal weights once.
            first = index * 4099 % _SLICE
            for start in range(0, weight.nbytes, _SLICE):
                count = min(_SLICE, weight.nbytes - start)
                if weight.dtype is DType.UINT8:
                    file.write(codes[first : first + count])
                elif weight.dtype is DType.FLOAT:
                    file.write(np.ones(count // 4, np.float32).tobytes())
                else:
                    file.write(np.full(count // 2, _SCALE, np.float16).tobytes())


def show(rows: list[dict[str, Any]]) -> None:
    """Print a row for each plan."""
    header = ["plan", "weights GB", "plan GB", "seconds", "peak GB", "activations MB"]
    cells = [
        [
            row["plan"],
            f"{row['weights_bytes'] / 1e9:.2f}",
            f"{row['plan_bytes'] / 1e9:.2f}",
            f"{row['seconds']:.0f}",
            f"{row['peak_rss_bytes'] / 1e9:.1f}",
            " / ".join(f"{each / 1e6:.0f}" for each in row["activation_bytes"]),
        ]
        for row in rows
    ]
    click.echo(render_table(cells, header=header, left=(0,)))


if __name__ == "__main__":
    main()
