"""How many answers change with what else is asked.

ONNX Runtime's own operators round differently for one row and for many; ours do not. The demo
model's engines answer held-out prompts alone, beside others in a batch, and in smaller chunks;
whether a text changed is counted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.engines import build_engine
from benchmarks.record import environment, keep
from benchmarks.serving_tables import batching_table
from trtcoder import LLM, SamplingParams
from trtcoder.calib.text.examples import read_built_in
from trtcoder.runtime.engine.settings import EngineSettings

PROMPTS, TOKENS, BATCH = 48, 96, 8
INT4, INT4_EXACT, FP32 = ("--weights", "int4"), ("--accuracy-level", "0"), ("--weights", "fp32")
# How each is built, and whether it may run on our kernels.
ENGINES = {
    "int4, our kernels": (INT4, True),
    "int4, ONNX Runtime's operators": (INT4, False),
    "int4, accuracy level 0": (INT4 + INT4_EXACT, False),
    "fp32, our kernels": (FP32, True),
    "fp32, ONNX Runtime's operators": (FP32, False),
}
# Nothing is reused, so that only batch and chunks differ.
ALONE = {"max_batch": 1, "chunk": 512, "prefix_cache": False, "speculate": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "batch of 8": ALONE | {"max_batch": BATCH},
    "chunks of 64": ALONE | {"chunk": 64},
    "with the prefix cache": ALONE | {"prefix_cache": True},
    "with drafts": ALONE | {"speculate": True},
}


@contextmanager
def kernels(used: bool) -> Iterator[None]:
    """Let engines that are opened run on our kernels, or not."""
    before = os.environ.get("TRTCODER_PLUGINS")
    os.environ["TRTCODER_PLUGINS"] = "1" if used else "0"
    try:
        yield
    finally:
        del os.environ["TRTCODER_PLUGINS"]
        if before is not None:
            os.environ["TRTCODER_PLUGINS"] = before


def answers(folder: Path, settings: dict[str, Any], prompts: list[str]) -> list[list[int]]:
    """Return the greedy tokens of each prompt's answer."""
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    with LLM(folder, settings=EngineSettings(context=2048, **settings)) as llm:
        outputs = llm.generate(prompts, params, progress=False)
        # Once more: with a prefix cache, the second time finds the first.
        outputs = llm.generate(prompts, params, progress=False)
    return [output.outputs[0].token_ids for output in outputs]


def changed(folder: Path, prompts: list[str]) -> dict[str, int]:
    """Return how many answers of each variant are not those of prompts that are asked alone."""
    expected = answers(folder, ALONE, prompts)
    return {
        variant: sum(
            found != wanted
            for found, wanted in zip(answers(folder, settings, prompts), expected, strict=True)
        )
        for variant, settings in VARIANTS.items()
    }


@click.command()
def main() -> None:
    """Build, ask and print a table, then one JSON line."""
    texts = [record["text"] for record in read_built_in("heldout") if record["kind"] == "plain"]
    prompts = [text[: 200 + 20 * index] for index, text in enumerate(texts[:PROMPTS])]
    rows: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as work:
        for index, (name, (options, used)) in enumerate(ENGINES.items()):
            folder = Path(work) / str(index)
            build_engine(folder, list(options))
            with kernels(used):
                rows[name] = changed(folder, prompts)
            click.echo(f"{name:<32} {rows[name]}", err=True)
    result = {
        "environment": environment(),
        "prompts": len(prompts),
        "tokens": TOKENS,
        "changed": rows,
    }
    click.echo(batching_table(result))
    keep("batching", result)


if __name__ == "__main__":
    main()
