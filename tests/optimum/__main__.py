"""Run Optimum's command line and transformers' generation, as Optimum's users have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from tests.clients.package import Package, install_missing
from tests.export.targets.checkpoints.test_readers import load
from trtcoder import LLM, build
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.manifest import Manifest
from trtcoder.errors import TrtcoderError
from trtcoder.export.build import BuildOptions

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "checkpoint"
TRTCODER = Path(sys.executable).with_name("trtcoder")
# What trtcoder needs to run an engine; its own code is this folder's.
_RUNTIME = ("onnxruntime>=1.31,<1.32", "click", "jinja2", "rich")
PACKAGE = Package("pip", "optimum-onnx", "0.1.0", ("torch==2.13.0", *_RUNTIME), room="optimum")
PROMPTS = ["def add(a, b):\n", "import os\n\nclass Folder:\n    def __init__", "# the largest of"]
MAX_NEW_TOKENS, SEED = 24, 5
REFUSED = (("--optimize", "O2"), ("--task", "fill-mask"), ("--dtype", "fp16"))


def run(*command: object, environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    """Run a program of Optimum's environment, without the network, and return how it ended."""
    program, *arguments = map(str, command)
    return subprocess.run(
        [str(PACKAGE.program(program)), *arguments],
        capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", **environment},
    )  # fmt: skip


def export(engine: Path, *options: str) -> Manifest:
    """Let optimum-cli export the demo checkpoint; return the engine's manifest."""
    done = run(
        "optimum-cli", "export", "onnx", "--model", DEMO, *options, engine,
        environment={"TRTCODER": str(TRTCODER)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return Bundle.load(engine).manifest


def check_export(engine: Path) -> str:
    """Compare what optimum-cli exports with what `trtcoder build` writes."""
    theirs = export(engine)
    ours = build(DEMO, engine.with_name("ours"), BuildOptions(weights="fp32")).manifest
    assert theirs.computing_digest() == ours.computing_digest()
    return f"the engine of `trtcoder build --weights fp32`, {verdict(theirs)}"


def check_variant(engine: Path) -> str:
    """Export with another precision."""
    manifest = export(engine, "--variant", "int4")
    assert manifest.recipe["weights"] == "int4"
    return f"an int4 engine, {verdict(manifest)}"


def verdict(manifest: Manifest) -> str:
    """Return what an engine's certificate says in short."""
    assert manifest.parity is not None
    return f"certificate: {manifest.parity['verdict']}, KL {manifest.parity['kl_mean']:.0e}"


def check_refusals(folder: Path) -> str:
    """Let optimum-cli refuse what an engine cannot follow, each time in one line."""
    for option in REFUSED:
        done = run("optimum-cli", "export", "onnx", "--model", DEMO, *option, folder)
        assert done.returncode == 1, option
        assert done.stderr.startswith(f"Error: {option[0]}"), done.stderr
    done = run(
        "optimum-cli", "export", "onnx", "--model", DEMO, folder, environment={"TRTCODER": ""}
    )
    assert "set TRTCODER=" in done.stderr, done.stderr
    return ", ".join(" ".join(option) for option in REFUSED) + "; an environment that cannot verify"


def ask(engine: Path) -> dict[str, Any]:
    """Return what Optimum's environment makes of an engine."""
    asked = {"prompts": PROMPTS, "max_new_tokens": MAX_NEW_TOKENS, "seed": SEED}
    program = Path(__file__).parent / "programs" / "generate.py"
    done = run("python", program, engine, DEMO, json.dumps(asked))
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def expected(ids: list[list[int]], **options: Any) -> list[list[int]]:
    """Return what the reference, transformers' own model in float32, writes after prompts."""
    model = load(DEMO, torch.float32)
    width = max(map(len, ids))
    rows = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    end = model.generation_config.eos_token_id
    torch.manual_seed(SEED)
    found = model.generate(
        rows, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, pad_token_id=end, **options
    )
    answers = found[:, width:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in answers]


def check_float32(engine: Path) -> str:
    """Compare a float32 engine with the reference, token by token."""
    found = ask(engine)
    greedy = expected(found["ids"], do_sample=False)
    assert found["alone"] == greedy, (found["alone"], greedy)
    assert found["batch"] == greedy, (found["batch"], greedy)
    sampled = expected(found["ids"], do_sample=True, temperature=0.8)
    assert found["sampled"] == sampled, (found["sampled"], sampled)
    check_texts(engine, found)
    counts = [sum(map(len, each)) for each in (greedy, sampled)]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{counts[0]} greedy and {counts[1]} sampled tokens are the reference's ({versions})"


def check_texts(engine: Path, found: dict[str, Any]) -> None:
    """Compare the pipeline's texts with those of the greedy tokens."""
    with LLM(engine) as llm:
        for prompt, text, tokens in zip(PROMPTS, found["texts"], found["alone"], strict=True):
            assert text == prompt + llm.tokenizer.decode(tokens), (text, tokens)


def check_int4(engine: Path) -> str:
    """Compare an int4 engine with what trtcoder.LLM writes with it."""
    found = ask(engine)
    with LLM(engine) as llm:
        outputs = llm.generate(
            prompt_token_ids=found["ids"], max_tokens=MAX_NEW_TOKENS, temperature=0
        )
        eos = llm.manifest.tokens.eos
    wanted = [list(output.outputs[0].token_ids) for output in outputs]
    for name in ("alone", "batch"):
        kept = [[token for token in row if token not in eos] for row in found[name]]
        assert kept == [[token for token in row if token not in eos] for row in wanted], name
    check_texts(engine, found)
    return f"{sum(map(len, wanted))} greedy tokens are trtcoder.LLM's"


@click.command()
def main() -> None:
    """Show both doors of Optimum on the demo model."""
    install_missing([PACKAGE])
    torch.set_num_threads(1)  # two of them wait for each other long on a busy machine
    with tempfile.TemporaryDirectory(prefix="trtcoder-optimum-") as work:
        root = Path(work)
        checks: tuple[tuple[str, Callable[[], str]], ...] = (
            ("optimum-cli export onnx", lambda: check_export(root / "fp32")),
            ("optimum-cli export onnx --variant int4", lambda: check_variant(root / "int4")),
            ("optimum-cli refuses", lambda: check_refusals(root / "refused")),
            ("EngineForCausalLM, fp32", lambda: check_float32(root / "fp32")),
            ("EngineForCausalLM, int4", lambda: check_int4(root / "int4")),
        )
        failed = False
        for name, check in checks:
            try:
                click.echo(f"passed: {name}: {check()}")
            except (AssertionError, TrtcoderError, OSError) as error:
                failed = True
                click.echo(f"FAILED: {name}: {error}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
