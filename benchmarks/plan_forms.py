"""What TensorRT-RTX makes of one matrix in float8, form by form. No GPU, no checkpoint.

The figures are the builder's own count of a plan's weights and of a step's memory, decoding and for
512 tokens: what is written out in float16 at every step shows in the second. Needs `make rtx`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np
import onnx_ir as ir

from benchmarks.record import keep
from trtcoder.errors import BuildError
from trtcoder.export.graph.builder import CudaForm, GraphBuilder
from trtcoder.export.graph.slots.model import HALF
from trtcoder.export.targets.tensorrt_rtx.compilation import compile_in_child
from trtcoder.export.targets.tensorrt_rtx.compiler import Job
from trtcoder.export.targets.tensorrt_rtx.plan import OPSET
from trtcoder.tables import render_table
from trtcoder.tensorrt_rtx.libraries import PACKAGE, PLUGIN_PACKAGE

WIDTH, ROWS, BLOCK = 2048, 5632, 128
# Shapes of the scales of a matrix [N, K]; None is float16.
FORMS: dict[str, tuple[int, ...] | None] = {
    "float16": None,
    "a scale each": (1,),
    "a scale each row": (ROWS,),
    "scales of 128 in a row": (ROWS, WIDTH // BLOCK),
}
FLOAT8 = ir.DataType.FLOAT8E4M3FN
DECODE, PROMPT = {"tokens": (1, 1, 8)}, {"tokens": (512, 512, 512)}


@click.command()
@click.option("--gpus", default="89,120", show_default=True)
def main(gpus: str) -> None:
    """Compile a matrix of 2,048 x 5,632 in each form, with and without rounded activations."""
    capabilities = tuple(map(int, gpus.split(",")))
    rows = [
        compiled(form, rounds, capabilities)
        for rounds in (False, True)
        for form in FORMS
        if not (rounds and FORMS[form] is None)
    ]
    header = ["weights", "activations", "weights MB", "a step's memory MB"]
    cells = [
        [
            row["weights"],
            row["activations"],
            f"{row['weights_bytes'] / 1e6:.2f}",
            " / ".join(f"{each / 1e6:.1f}" for each in row["activation_bytes"]),
        ]
        for row in rows
        if "problem" not in row
    ]
    click.echo(render_table(cells, header=header, left=(0, 1)))
    for row in rows:
        if "problem" in row:
            click.echo(f"{row['weights']}, {row['activations']}: {row['problem']}")
    keep("plan_forms", {"gpus": list(capabilities), "forms": rows}, PACKAGE, PLUGIN_PACKAGE)


def compiled(form: str, rounds: bool, capabilities: tuple[int, ...]) -> dict[str, Any]:
    """Compile one form, and return what it took."""
    row: dict[str, Any] = {"weights": form, "activations": "float8" if rounds else "float16"}
    with tempfile.TemporaryDirectory() as root:
        graph, plan = Path(root) / "matrix.onnx", Path(root) / "matrix.plan"
        ir.save(matrix(FORMS[form], rounds), graph)
        try:
            made = compile_in_child(
                Job(str(graph), str(plan), capabilities, 1, (DECODE, PROMPT), False)
            )
        except BuildError as error:
            return row | {"problem": str(error).partition(": ")[2]}
    return row | {
        "weights_bytes": made.weights,
        "activation_bytes": list(made.activations),
    }


def matrix(scales: tuple[int, ...] | None, rounds: bool) -> ir.Model:
    """Return a graph of one product: ``x`` float16 ``[tokens, K]``, random weights ``[N, K]``."""
    b = GraphBuilder("matrix", cuda=CudaForm(HALF), opset=OPSET)
    rng = np.random.default_rng(0)
    x = b.input("x", HALF, ["tokens", WIDTH])
    if rounds:
        scale = b.constant(np.array([0.05], np.float16), "x/scale")
        codes = b.op(
            "QuantizeLinear", "x/codes", [x, scale], ["tokens", WIDTH], dtype=FLOAT8,
            output_dtype=int(FLOAT8),
        )  # fmt: skip
        x = b.op("DequantizeLinear", "x/rounded", [codes, scale], ["tokens", WIDTH])
    if scales is None:
        values = rng.standard_normal((ROWS, WIDTH)).astype(np.float16)
        weight = b.constant(values, "weight")
    else:
        bits = rng.integers(0, 0x7F, (ROWS, WIDTH), np.uint8)
        codes = b.constant(bits.view(ml_dtypes.float8_e4m3fn), "weight/codes")
        given = b.constant(rng.uniform(0.01, 0.02, scales).astype(np.float16), "weight/scales")
        axis, block = (1, BLOCK) if len(scales) > 1 else (0, 0)
        weight = b.op(
            "DequantizeLinear", "weight", [codes, given], [ROWS, WIDTH], axis=axis, block_size=block
        )
    product = b.op("Gemm", "product", [x, weight], ["tokens", ROWS], transB=1)
    b.output(product, "y")
    return b.model("", {})


if __name__ == "__main__":
    main()
