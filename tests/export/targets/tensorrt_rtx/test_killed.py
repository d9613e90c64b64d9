"""SIGKILL in the middle of a plan, at the compiler and at the build: the next build goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.test_interrupted_build import contents, listing
from tests.quantized_checkpoints import QUICK, lite_like
from trtcoder.export.targets.tensorrt_rtx import compiler
from trtcoder.export.targets.tensorrt_rtx.compilation import NOTE
from trtcoder.testing.random_checkpoint import write_random_checkpoint

PLANS = ["layers.00-00.plan", "layers.01-01.plan", "head.plan"]
INT4 = ["--weights", "int4"]
# Calibrated.
STATIC = ["--weights", "int4+fp8", "--activations", "static"]
OPTIONS = ["--target", "tensorrt-rtx", "--compute-capability", "89", "--context", "64", "--no-gate"]
# Each layer has a plan of its own.
BUILD = """
import sys
from trtcoder.export.targets.tensorrt_rtx import plan
plan.split_layers = lambda sizes: [range(layer, layer + 1) for layer in range(len(sizes))]
from trtcoder.cli import main
main()
"""
_PATIENCE = 600.0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    pytest.importorskip(
        "onnxruntime_ep_nv_tensorrt_rtx", reason="TensorRT-RTX' plugins are not installed"
    )
    return write_random_checkpoint(tmp_path_factory.mktemp("killed") / "source", lite_like())


def start(source: Path, out: Path, weights: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, "build", str(source), "--out", str(out)]
    command += [*OPTIONS, *QUICK, *weights]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(source: Path, out: Path, weights: list[str]) -> str:
    """Build, and return what is printed."""
    process = start(source, out, weights)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def within(seconds: float, find: Callable[[], int | None]) -> int:
    """Return what is found as soon as it is there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = find()
        if found is not None:
            return found
        time.sleep(0.01)
    raise AssertionError("it does not come")


def compiling(parent: int, workspace: Path) -> int | None:
    """Return the process that is at the second plan, its libraries loaded."""
    try:
        noted = json.loads((workspace / NOTE).read_text())
    except FileNotFoundError:
        return None
    for entry in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        child = Path("/proc", entry)
        try:
            loaded = "libtensorrt_plugins" in (child / "maps").read_text()
            wanted = compiler.__name__.encode() in (child / "cmdline").read_bytes()
        except OSError:
            continue
        if loaded and wanted and list(noted) == PLANS[:1]:
            return int(entry)
    return None


@pytest.mark.parametrize(("killed", "weights"), [("compiler", INT4), ("build", STATIC)])
def test_a_build_that_was_killed_while_a_plan_was_compiled_goes_on(
    source: Path, tmp_path: Path, killed: str, weights: list[str]
) -> None:
    out, workspace = tmp_path / "engine", tmp_path / ".engine.partial"
    process = start(source, out, weights)
    child = within(_PATIENCE, lambda: compiling(process.pid, workspace))
    first = workspace / "engine" / PLANS[0]
    before = first.stat(), first.read_bytes()
    os.kill(child if killed == "compiler" else process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    if killed == "compiler":
        assert process.returncode == 1, output
        assert "layers.01-01.onnx: the compiler was ended by signal 9" in output
        assert "the same command goes on from there" in output
    else:
        assert process.returncode == -signal.SIGKILL
        # No compiler stays behind, to write where the next one writes.
        within(60, lambda: None if Path(f"/proc/{child}").exists() else child)
    assert not out.exists()
    assert sorted(each.name for each in workspace.glob("engine/*.plan")) == PLANS[:1]

    assert "going on with the interrupted build" in finish(source, out, weights)
    after = out / PLANS[0]
    assert (after.stat().st_ino, after.stat().st_mtime_ns, after.read_bytes()) == (
        before[0].st_ino,
        before[0].st_mtime_ns,
        before[1],
    )
    assert listing(tmp_path) == ["engine"]
    finish(source, source.parent / killed, weights)
    check_alike(out, source.parent / killed)


def check_alike(engine: Path, other: Path) -> None:
    """Compare all but plans, which the compiler does not make alike twice, to the byte."""
    ours, theirs = contents(engine), contents(other)
    assert ours.keys() == theirs.keys()
    manifests = [json.loads(each.pop("manifest.json")) for each in (ours, theirs)]
    for name in PLANS:
        assert ours.pop(name)
        assert theirs.pop(name)
        for manifest in manifests:
            assert manifest["files"].pop(name)
    assert ours == theirs
    assert manifests[0] == manifests[1]


def test_a_compiler_whose_build_is_gone_does_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", compiler.__name__, str(os.getpid() + 1)]
    done = subprocess.run(command, input="{}", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
