"""Engines as a hub's client leaves them in its cache: every file a link to a blob."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import build_engine, write_checkpoint
from tests.runtime.server.serving import serve
from trtcoder import LLM
from trtcoder.bundle.folder import Bundle, file_sha256
from trtcoder.errors import EngineError
from trtcoder.runtime.ray.settings import RaySettings
from trtcoder.testing.random_checkpoint import tiny_config

REVISION = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"
BODY = {"prompt": "def f(x):", "max_tokens": 6, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with both graphs over its data file."""
    work = tmp_path_factory.mktemp("engine")
    source = write_checkpoint(work / "checkpoint", tiny_config(num_hidden_layers=2))
    folder = build_engine(source, work / "engine", "int4").folder
    assert {"model.onnx", "kernels.onnx", "model.data"} <= {each.name for each in folder.iterdir()}
    return folder


@pytest.fixture(scope="module")
def snapshot(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine as huggingface_hub keeps it: blobs by their hash, a snapshot of relative links."""
    cache = tmp_path_factory.mktemp("hub") / "models--someone--coder-lite"
    snapshot = cache / "snapshots" / REVISION
    for folder in (cache / "blobs", cache / "refs", snapshot):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text(REVISION)
    for path in engine.iterdir():
        blob = cache / "blobs" / file_sha256(path)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_a_server_answers_from_a_snapshot_as_from_the_folder(
    engine: Path, snapshot: Path, tmp_path: Path
) -> None:
    with LLM(engine) as llm:
        output = llm.generate("def f(x):", temperature=0, max_tokens=6, ignore_eos=True)[0]
    runs = []
    for name, folder in (("folder", engine), ("snapshot", snapshot)):
        (tmp_path / name).mkdir()
        with serve(folder, tmp_path / name, "--prefix-store", str(tmp_path / "store")) as server:
            answer = server.post("/v1/completions", **BODY).json()
            assert answer["choices"][0]["text"] == output.outputs[0].text
            runs.append((answer["system_fingerprint"], server.log.read_text()))
    assert runs[0][0] == runs[1][0]
    said = [
        {json.loads(line).get("runs_on") for line in log.splitlines() if line[:1] == "{"}
        for _, log in runs
    ]
    assert said[0] == said[1], "other operators run the links"


def test_a_snapshot_is_checked_as_a_folder_is(snapshot: Path, tmp_path: Path) -> None:
    Bundle.load(snapshot)
    copy = tmp_path / "models--someone--coder-lite"
    shutil.copytree(snapshot.parents[1], copy, symlinks=True)
    blob = (copy / "snapshots" / REVISION / "model.data").resolve()
    assert copy in blob.parents
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with pytest.raises(EngineError, match=r"model.data has sha256"):
        Bundle.load(copy / "snapshots" / REVISION)
    blob.unlink()
    with pytest.raises(EngineError, match=r"model.data is missing"):
        Bundle.load(copy / "snapshots" / REVISION)


@pytest.mark.parametrize("command", ["inspect", "complete", "serve"])
def test_the_cache_itself_is_refused_with_its_snapshot(snapshot: Path, command: str) -> None:
    program = [sys.executable, "-c", "from trtcoder.cli import main; main()"]
    text = ["x"] if command == "complete" else []
    done = subprocess.run(
        [*program, command, str(snapshot.parents[1]), *text],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"give its snapshot {snapshot}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_replica_on_ray_takes_a_snapshot(snapshot: Path) -> None:
    settings = RaySettings.of({"engines": [str(snapshot)], "insecure": True})
    assert list(settings.named().values()) == [snapshot]
