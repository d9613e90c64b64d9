"""Our kernels beside ONNX Runtime's own, at the shapes of DeepSeek-Coder-V2-Lite.

Layers of random weights, several of each so that none stays in the cache, run alternately: a
neighbour's work slows both alike, and the medians of the ratios of neighbours are reported.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.record import keep
from trtcoder.cores import available_cores
from trtcoder.plugins.library import DOMAIN, open_library

HIDDEN, INNER, EXPERTS, TOP_K, SHARED, VOCABULARY = 2048, 1408, 64, 6, 2 * 1408, 102400
MICROSOFT = "com.microsoft"
TOKENS = (1, 2, 4, 8, 16, 64, 512)


class Graph:
    """Nodes and random weights of one model; the weights go to a file beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.nbytes = 0
        self._data = (folder / "model.data").open("wb")

    def node(self, op_type: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        from onnx import helper

        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, inputs, [name], name=name, domain=domain, **attributes)
        )
        return name

    def weight(self, values: NDArray[np.generic]) -> str:
        """Add a weight; return its name."""
        from onnx import TensorProto, helper

        name = f"weight_{len(self.initializers)}"
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(values.dtype),
            dims=values.shape,
            data_location=TensorProto.EXTERNAL,
        )
        self._data.seek(-(-self._data.tell() // 4096) * 4096)
        where = {"location": "model.data", "offset": self._data.tell(), "length": values.nbytes}
        for key, value in where.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        self._data.write(values.tobytes())
        self.initializers.append(tensor)
        return name

    def quantized(self, codes: list[int], scales: list[int], dtype: type[np.generic]) -> list[str]:
        """Add random 4-bit codes and scales of the given shapes; return their names."""
        rng = np.random.default_rng(len(self.initializers))
        packed = rng.integers(0, 256, codes, np.uint8)
        steps = rng.uniform(0.004, 0.008, scales).astype(dtype)
        self.nbytes += packed.nbytes + 2 * steps.size
        return [self.weight(packed), self.weight(steps)]

    def panels(self, rows: int, width: int, block: int) -> list[str]:
        """Add a matrix in panels, without zero points."""
        blocks = width // block
        return [
            *self.quantized([rows // 16, width * 8], [rows // 16, blocks * 16], np.float16),
            "",
        ]

    def ints(self, *values: int) -> str:
        """Add a constant; return its name."""
        from onnx import numpy_helper

        name = f"ints_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def session(self, outputs: list[str], threads: int) -> Any:
        """Return a session over the graph, which adds the outputs up; x is ``[tokens, HIDDEN]``."""
        import onnx
        import onnxruntime as ort
        from onnx import TensorProto, helper

        self._data.close()
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Sum", outputs, ["y"])],
            "layers",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", HIDDEN])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self.initializers,
        )
        opsets = [helper.make_opsetid(d, 21 if d == "" else 1) for d in ("", MICROSOFT, DOMAIN)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.save(model, self.folder / "model.onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        library = open_library()
        options.register_custom_ops_library(str(library.path))
        return ort.InferenceSession(
            self.folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )


def stock_linear(g: Graph, x: str, width: int, rows: int, block: int) -> str:
    """Add a linear layer in a stock operator."""
    blocks = width // block
    weights = g.quantized([rows, blocks, block // 2], [rows, blocks], np.float32)
    return g.node(
        "MatMulNBits", [x, *weights], MICROSOFT, N=rows, K=width, bits=4, block_size=block,
        accuracy_level=4,
    )  # fmt: skip


def our_linear(g: Graph, x: str, width: int, rows: int, block: int) -> str:
    """Add the same layer in an operator of ours."""
    return g.node(
        "Linear", [x, *g.panels(rows, width, block)], DOMAIN, N=rows, K=width, bits=4, block=block
    )


def stock_experts(g: Graph, block: int) -> str:
    """Add a layer of routed and shared experts in stock operators."""
    logits = g.node("Gemm", ["x", g.weight(_router(g))], transB=1)
    experts: list[str] = []
    for rows, width in ((2 * INNER, HIDDEN), (HIDDEN, INNER)):
        shapes = [EXPERTS, rows, width // 2], [EXPERTS, rows, width // block]
        experts += [*g.quantized(*shapes, np.float32), ""]
    routed = g.node(
        "QMoE", ["x", logits, *experts, *[""] * 6, g.node("Softmax", [logits])], MICROSOFT,
        k=TOP_K, expert_weight_bits=4, block_size=block, accuracy_level=4,
        normalize_routing_weights=0, activation_type="swiglu", swiglu_fusion=1,
        activation_alpha=1.0, activation_beta=0.0,
    )  # fmt: skip
    fused = stock_linear(g, "x", HIDDEN, 2 * SHARED, block)
    gate = g.node("Slice", [fused, *(g.ints(v) for v in (0, SHARED, 1))])
    up = g.node("Slice", [fused, *(g.ints(v) for v in (SHARED, 2 * SHARED, 1))])
    silu = g.node("QuickGelu", [gate], MICROSOFT, alpha=1.0)
    shared = stock_linear(g, g.node("Mul", [silu, up]), SHARED, HIDDEN, block)
    return g.node("Add", [routed, shared])


def our_experts(g: Graph, block: int) -> str:
    """Add the same layer in one operator of ours."""
    inputs = ["x", g.weight(_router(g))]
    for rows, width in (
        (EXPERTS * 2 * INNER, HIDDEN), (EXPERTS * HIDDEN, INNER), (2 * SHARED, HIDDEN),
        (HIDDEN, SHARED),
    ):  # fmt: skip
        inputs += g.panels(rows, width, block)
    forms = {
        f"{stack}_{role}_{key}": value
        for stack in ("experts", "shared")
        for role in ("gate_up", "down")
        for key, value in (("bits", 4), ("block", block))
    }
    return g.node(
        "Experts", inputs, DOMAIN, hidden=HIDDEN, inner=INNER, shared_inner=SHARED,
        experts=EXPERTS, top_k=TOP_K, groups=1, top_groups=1, normalize=0, scale=1.0, **forms,
    )  # fmt: skip


def _router(g: Graph) -> NDArray[np.float32]:
    rng = np.random.default_rng(len(g.initializers))
    return rng.standard_normal((EXPERTS, HIDDEN)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """Layers to compare, and how much one of them computes a token."""

    name: str
    copies: int
    stock: Callable[[Graph], str]
    ours: Callable[[Graph], str]
    multiplications: int


def cases(block: int) -> list[Case]:
    """Return what is measured."""
    linear = [("lm_head", 1, HIDDEN, VOCABULARY), ("query", 32, HIDDEN, 3072)]
    return [
        Case(
            "experts", 3, lambda g: stock_experts(g, block), lambda g: our_experts(g, block),
            HIDDEN * EXPERTS + 3 * HIDDEN * (TOP_K * INNER + SHARED),
        ),
        *(
            Case(
                name, copies,
                lambda g, k=width, n=rows: stock_linear(g, "x", k, n, block),  # type: ignore[misc]
                lambda g, k=width, n=rows: our_linear(g, "x", k, n, block),  # type: ignore[misc]
                width * rows,
            )
            for name, copies, width, rows in linear
        ),
    ]  # fmt: skip


def measure(case: Case, tokens: list[int], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row of figures for each number of tokens."""
    with tempfile.TemporaryDirectory() as name:
        sessions = {}
        for kind, add in (("stock", case.stock), ("ours", case.ours)):
            folder = Path(name) / kind
            folder.mkdir()
            graph = Graph(folder)
            outputs = [add(graph) for _ in range(case.copies)]
            # Two pools of threads would take the cores from each other.
            sessions[kind] = graph.session(outputs, threads if kind == "stock" else 1)
        return [_row(case, sessions, count, rounds, graph.nbytes) for count in tokens]


def _row(
    case: Case, sessions: dict[str, Any], tokens: int, rounds: int, nbytes: int
) -> dict[str, Any]:
    rng = np.random.default_rng(tokens)
    x = rng.standard_normal((tokens, HIDDEN)).astype(np.float32)
    seconds: dict[str, list[float]] = {kind: [] for kind in sessions}
    for _ in range(rounds):
        for kind, session in sessions.items():
            # The other kind's threads spin for a while after their work.
            time.sleep(0.02)
            session.run(None, {"x": x})
            burst = []
            for _ in range(1 if tokens > 64 else 4):
                start = time.perf_counter()
                session.run(None, {"x": x})
                burst.append((time.perf_counter() - start) / case.copies)
            seconds[kind].append(float(np.median(burst)))
    stock, ours = (np.array(seconds[kind]) for kind in ("stock", "ours"))
    row = {
        "layer": case.name,
        "tokens": tokens,
        "stock_ms": 1e3 * float(np.median(stock)),
        "ours_ms": 1e3 * float(np.median(ours)),
        "stock_best_ms": 1e3 * float(stock.min()),
        "ours_best_ms": 1e3 * float(ours.min()),
        "ratio": float(np.median(stock / ours)),
        "ours_gops": 2e-9 * tokens * case.multiplications / float(np.median(ours)),
    }
    if case.name != "experts":
        row["ours_gb_s"] = 1e-9 * nbytes / case.copies / float(np.median(ours))
    elif tokens == 1:
        # Of the routed experts' weights only those of the chosen ones are read.
        read = 3 * HIDDEN * (TOP_K * INNER + SHARED) * nbytes / case.copies
        row["ours_gb_s"] = (
            1e-9 * read / (3 * HIDDEN * (EXPERTS * INNER + SHARED)) / float(np.median(ours))
        )
    return row


@click.command()
@click.option("--block", default=32, help="Columns that share a scale.")
@click.option("--only", multiple=True, help="The layers to measure; all by default.")
@click.option("--rounds", default=15, help="Runs of each kind.")
@click.option("--tokens", multiple=True, type=int, default=TOKENS)
def main(block: int, only: tuple[str, ...], rounds: int, tokens: tuple[int, ...]) -> None:
    """Measure and print a table, and a line of JSON."""
    library = open_library()
    threads = available_cores()
    library.set_threads(threads)
    rows = []
    print("layer      tokens  stock ms   ours ms      best      best  ratio   GB/s   GOP/s")
    for case in cases(block):
        if only and case.name not in only:
            continue
        for row in measure(case, list(tokens), threads, rounds):
            rows.append(row)
            print(
                f"{row['layer']:<10}{row['tokens']:>7}{row['stock_ms']:>10.3f}{row['ours_ms']:>10.3f}"
                f"{row['stock_best_ms']:>10.3f}{row['ours_best_ms']:>10.3f}"
                f"{row['ratio']:>7.2f}{row.get('ours_gb_s', 0):>7.1f}{row['ours_gops']:>8.0f}",
                flush=True,
            )
    keep("kernels", {"isa": library.isa, "block": block, "layers": rows})


if __name__ == "__main__":
    main()
