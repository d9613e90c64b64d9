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
@click.option("--weights", type=click.Choice(TensorRtRtx.precisions), default="int4")
@click.option("--activations", help="Of int4+fp8: float or static.")
@click.option("--gpus", help="Compute capabilities; by default those of the build.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for its files.")
@click.option("--weight-streaming", is_flag=True)
def main(
    model: str,
    layers: int,
    weights: str,
    activations: str | None,
    gpus: str | None,
    out: Path | None,
    weight_streaming: bool,
) -> None:
    """Compile a model of so many layers, and say what each plan took."""
    compiling = Compiling(
        capabilities=tuple(map(int, gpus.split(","))) if gpus else None,
        weight_streaming=weight_streaming,
    )
    config = PRESETS[model] | {"num_hidden_layers": layers}
    with tempfile.TemporaryDirectory(dir=out) as root:
        folder = Path(root) / "engine"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        options = RecipeOptions(weights=weights, activations=activations, compiling=compiling)
        plan = described(folder, options)
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
                "held_weights_bytes": made[info.file].weights,
                "plan_bytes": (folder / info.file).stat().st_size,
                "seconds": round(made[info.file].seconds, 1),
                "peak_rss_bytes": made[info.file].peak_rss,
                "activation_bytes": list(made[info.file].activations),
            }
            for info, size in sizes.items()
        ]
    show(rows)
    shapes, forms = plan.compilation.shapes, [weights]
    if plan.recipe.activations is not None:
        forms.append(plan.recipe.activations)
    figures = {
        "model": model,
        "layers": layers,
        "weights": ", ".join(forms),
        "gpus": list(plan.compilation.capabilities),
        "slots": shapes.slots,
        "context": shapes.context,
        "chunk": shapes.chunk,
        "weight_streaming": weight_streaming,
        "plans": rows,
    }
    name = "-".join(["plans", model, *(forms if len(forms) > 1 else ())])
    keep(name, figures, PACKAGE, PLUGIN_PACKAGE)


def described(folder: Path, options: RecipeOptions) -> RtxPlan:
    """Return the plan of a model of which there is only its config.json."""
    target = TensorRtRtx()
    return target.plan(Checkpoint.describe(folder), target.recipe(options))


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
                if weight.dtype in (DType.UINT8, DType.FLOAT8):
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
