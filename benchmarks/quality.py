"""What storing the demo model's weights costs, in our formats and in llama.cpp's.

Every row is held against the same float32 transformers reference of the bf16 checkpoint, on the
same token ids: held-out text that nothing was chosen by (`benchmarks.heldout`). Ours are built by
the command line and run as they serve. llama.cpp's are made by its own programs from a GGUF whose
float32 logits must first agree with the reference.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import onnx

from benchmarks.engines import build_engine
from benchmarks.heldout import split_heldout
from benchmarks.judge import Judge
from benchmarks.llama_cpp import LlamaCpp, cache, obtain
from benchmarks.llama_gguf import fallbacks, fewest_tokens, stored_types, write_gguf
from benchmarks.llama_logits import LlamaModel
from benchmarks.quality_goals import goals
from benchmarks.quality_plot import plot
from benchmarks.record import RESULTS, keep
from benchmarks.speed import DEMO
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.manifest import Manifest
from trtcoder.calib.text.calibration import load_calibration
from trtcoder.calib.text.examples import KINDS
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.parity.graph_probe import GraphProbe
from trtcoder.export.targets.onnxruntime import DATA_FILE
from trtcoder.prompting.source import Prompting, read_prompting

# As `trtcoder build` by default, so that imatrix and our methods see the same text.
CALIBRATION_TOKENS = 16_384
VARIANTS: dict[str, list[str]] = {
    "fp32": ["--weights", "fp32"],
    "fp32, int8 cache": ["--weights", "fp32", "--cache", "int8"],
    "fp8": ["--weights", "fp8"],
    "int8": ["--weights", "int8"],
    "int4": ["--weights", "int4"],
    "int4, zero points": ["--weights", "int4", "--zero-points"],
    "int4, block 128": ["--weights", "int4", "--block-size", "128"],
    "int4, gptq": ["--weights", "int4", "--method", "gptq"],
    "int4, zero points, gptq": ["--weights", "int4", "--zero-points", "--method", "gptq"],
    # No more bytes of weights than IQ4_XS, no more in all files than Q4_K_M, and no more bytes of
    # weights than Q4_K_M.
    "mixed 10.5 MB, gptq": ["--target-size", "10550000", "--method", "gptq"],
    "mixed 11.7 MB, gptq": ["--target-size", "11750000", "--method", "gptq"],
    "mixed 12.1 MB, gptq": ["--target-size", "12080000", "--method", "gptq"],
}
# Label -> llama-quantize's type, and whether it gets an importance matrix.
LLAMA_VARIANTS: dict[str, tuple[str, bool]] = {
    "BF16": ("BF16", False),
    "Q8_0": ("Q8_0", False),
    "Q4_K_M": ("Q4_K_M", False),
    "Q4_K_M, imatrix": ("Q4_K_M", True),
    "IQ4_XS": ("IQ4_XS", False),
    "IQ4_XS, imatrix": ("IQ4_XS", True),
    "Q4_0": ("Q4_0", False),
}
# A wrong formula or key gives 1e-3 nats and more. Sums in another order give 1e-12, and 1e-8 in the
# mean when a router's tie goes the other way somewhere.
PROOF = 1e-6
HEADER = (
    "bits/weight",
    "weights MB",
    "files MB",
    "KL mean",
    "KL p99",
    "top-1",
    "perplexity",
    *KINDS,
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """What llama-quantize starts from.

    Attributes:
        exact: the checkpoint in float32.
        imatrix: the importance matrix.
        calibration: the text that it was measured on, what llama-imatrix said of it, and how many
            tokens the expert saw that saw the fewest.
    """

    exact: Path
    imatrix: Path
    calibration: dict[str, Any]


def our_row(judge: Judge, checkpoint: Checkpoint, folder: Path, options: list[str]) -> Row:
    """Build an engine with the command line and judge what it computes as it serves."""
    built = build_engine(folder, options)
    manifest = Bundle.load(folder).manifest
    return {
        "side": "trtcoder",
        "file_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "weight_bytes": engine_weights(folder, manifest),
        **judge.compare_engine(GraphProbe(folder, manifest, checkpoint.config)),
        "options": options,
        "data_sha256": manifest.files[DATA_FILE].sha256,
        "recipe": manifest.recipe,
        "verdict": built["parity"]["verdict"],
        "calibration": (built["parity"]["calibration"] or {}).get("digest"),
    }


def engine_weights(folder: Path, manifest: Manifest) -> int:
    """Return the bytes of an engine's weights, without graph, tokenizer and padding."""
    graph = onnx.load(str(folder / manifest.graph.file), load_external_data=False).graph
    return sum(
        int(entry.value)
        for weight in graph.initializer
        for entry in weight.external_data
        if entry.key == "length"
    )


def llama_row(judge: Judge, llama: LlamaCpp, path: Path) -> Row:
    """Judge what llama.cpp computes from a GGUF."""
    types = stored_types(path)
    with LlamaModel(llama, path, judge.longest) as model:
        found = judge.compare(model.run_all)
    return {
        "side": "llama.cpp",
        "file_bytes": path.stat().st_size,
        "weight_bytes": sum(entry["bytes"] for entry in types.values()),
        **found,
        "types": types,
    }


def all_rows(
    judge: Judge, checkpoint: Checkpoint, llama: LlamaCpp, ggufs: GgufFiles, work: Path
) -> Iterator[tuple[str, Row]]:
    """Yield label and row of each variant.

    Raises:
        ClickException: the float32 GGUF does not agree with the reference.
    """
    for label, options in VARIANTS.items():
        yield label, our_row(judge, checkpoint, work / _file_name(label), options)
    exact = llama_row(judge, llama, ggufs.exact)
    yield "F32", exact
    if exact["kl_mean"] > PROOF:
        raise click.ClickException(f"the GGUF is not this checkpoint: its KL is over {PROOF}")
    for label, (kind, important) in LLAMA_VARIANTS.items():
        path = work / f"{_file_name(label)}.gguf"
        notes = llama.quantize(ggufs.exact, path, kind, ggufs.imatrix if important else None)
        row = llama_row(judge, llama, path)
        yield label, {**row, "fallbacks": fallbacks(path, notes), "notes": notes}


def prepare_ggufs(
    llama: LlamaCpp, checkpoint: Checkpoint, prompting: Prompting, tokenizer: Any, work: Path
) -> GgufFiles:
    """Write the checkpoint as GGUF, and measure activations on our calibration text."""
    exact, imatrix, text = (work / name for name in ("f32.gguf", "imatrix.gguf", "text.txt"))
    write_gguf(checkpoint, exact)
    calibration = write_calibration(prompting, tokenizer, text)
    calibration["notes"] = llama.importance(exact, text, imatrix)
    calibration["fewest_tokens"] = fewest_tokens(imatrix)
    return GgufFiles(exact, imatrix, calibration)


def _file_name(label: str) -> str:
    return label.replace(", ", "-").replace(" ", "-")


def write_calibration(prompting: Prompting, tokenizer: Any, out: Path) -> Row:
    """Write the text that our calibration uses, special tokens and all; return what it is."""
    text = load_calibration(prompting.prompts(), CALIBRATION_TOKENS)
    pieces = [
        tokenizer.decode(list(sequence.ids), skip_special_tokens=False)
        for sequence in text.sequences
    ]
    # llama-imatrix puts the first token of a text itself.
    out.write_text("".join(pieces).removeprefix(tokenizer.id_to_token(prompting.tokens.bos)))
    return text.to_dict()


def echo(label: str, row: Row) -> None:
    """Print a row of the table."""
    texts = {text["kind"]: text["perplexity_change"] for text in row["texts"]}
    click.echo(
        f"{row['side']:<10} {label:<24}{row['bits_per_weight']:>12.2f}"
        f"{row['weight_bytes'] / 1e6:>12.2f}{row['file_bytes'] / 1e6:>12.2f}"
        f"{row['kl_mean']:>12.2e}{row['kl_p99']:>12.2e}"
        f"{row['top1_agreement']:>12.2%}{row['perplexity_change']:>12.2%}"
        + "".join(f"{texts[kind]:>12.2%}" for kind in KINDS)
    )


@click.command()
def main() -> None:
    """Build, quantize and measure; print a table, the goals, then one JSON line."""
    from tokenizers import Tokenizer

    llama = obtain(cache())
    checkpoint = Checkpoint.open(DEMO)
    parameters = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    prompting = read_prompting(checkpoint)
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    text = split_heldout(prompting.prompts())
    judge = Judge(checkpoint, text.judging)
    rows: dict[str, Row] = {}
    click.echo(f"{'':<35}" + "".join(f"{column:>12}" for column in HEADER))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ggufs = prepare_ggufs(llama, checkpoint, prompting, tokenizer, work)
        for label, row in all_rows(judge, checkpoint, llama, ggufs, work):
            row["bits_per_weight"] = 8 * row["weight_bytes"] / parameters
            rows[label] = row
            echo(label, row)
    for goal in goals(rows):
        click.echo(f"{goal['goal']}: {goal['outcome']}")
    plot(rows, RESULTS / "quality.svg")
    keep(
        "quality",
        {
            "llama.cpp": llama.versions(),
            "parameters": parameters,
            "text": text.describe(),
            "calibration": ggufs.calibration,
            "goals": goals(rows),
            "rows": rows,
        },
        "gguf",
        "matplotlib",
    )


if __name__ == "__main__":
    main()
