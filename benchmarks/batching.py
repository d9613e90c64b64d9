"""How many answers change with what else is asked, and by how much logits move.

Stock kernels round differently for one row and for many. The demo model's engines answer held-out
prompts alone, beside others in a batch, and in smaller chunks; whether a text changed is counted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.engines import build_engine
from benchmarks.record import environment, keep
from trtcoder import LLM, SamplingParams
from trtcoder.calib.text.examples import read_built_in
from trtcoder.runtime.engine.settings import EngineSettings

PROMPTS, TOKENS, BATCH = 48, 96, 8
ENGINES = {
    "int4, accuracy level 4": ["--weights", "int4"],
    "int4, accuracy level 0": ["--weights", "int4", "--accuracy-level", "0"],
    "fp32": ["--weights", "fp32"],
}
# Nothing is reused, so that only batch and chunks differ.
ALONE = {"max_batch": 1, "chunk": 512, "prefix_cache": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "batch of 8": ALONE | {"max_batch": BATCH},
    "chunks of 64": ALONE | {"chunk": 64},
    "with the prefix cache": ALONE | {"prefix_cache": True},
}


def answers(folder: Path, settings: dict[str, Any], prompts: list[str]) -> list[list[int]]:
    """Return the greedy tokens of each prompt's answer."""
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    with LLM(folder, settings=EngineSettings(context=2048, **settings)) as llm:
        outputs = llm.generate(prompts, params, progress=False)
        # Once more: with a prefix cache, the second time finds the first.
        outputs = llm.generate(prompts, params, progress=False)
    return [output.outputs[0].token_ids for output in outputs]


@click.command()
def main() -> None:
    """Build, ask and print a table, then one JSON line."""
    texts = [record["text"] for record in read_built_in("heldout") if record["kind"] == "plain"]
    prompts = [text[: 200 + 20 * index] for index, text in enumerate(texts[:PROMPTS])]
    rows: dict[str, dict[str, int]] = {}
    click.echo(f"{'engine':<26}" + "".join(f"{name:>24}" for name in VARIANTS))
    with tempfile.TemporaryDirectory() as work:
        for name, options in ENGINES.items():
            folder = Path(work) / name.replace(" ", "-")
            build_engine(folder, options)
            expected = answers(folder, ALONE, prompts)
            rows[name] = {
                variant: sum(
                    found != wanted
                    for found, wanted in zip(
                        answers(folder, settings, prompts), expected, strict=True
                    )
                )
                for variant, settings in VARIANTS.items()
            }
            click.echo(f"{name:<26}" + "".join(f"{n:>24}" for n in rows[name].values()))
    keep(
        "batching",
        {
            "environment": environment(),
            "prompts": len(prompts),
            "tokens": TOKENS,
            "changed": rows,
        },
    )


if __name__ == "__main__":
    main()
