"""Loading, unloading and ending, in a real Triton."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.server.talking import roomy_engine
from tests.runtime.triton.server.conftest import write
from tests.runtime.triton.server.installation import models_python
from tests.runtime.triton.server.requests import LONG, MODEL, PROMPT, UNARY, request, texts
from tests.runtime.triton.server.running import serve, start

EXPLICIT = ("--model-control-mode", "explicit")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roomy_engine(tmp_path_factory.mktemp("toy") / "engine")


def test_a_stream_ends_as_it_would_when_the_server_is_told_to(engine: Path, tmp_path: Path) -> None:
    asked = {**LONG, "text_input": PROMPT, "streaming": True, "sampling_param_max_tokens": 400}
    with serve(write(engine, tmp_path / "r"), tmp_path) as triton:
        path = f"/v2/models/{MODEL}/generate_stream"
        with triton.client.stream("POST", path, json=asked) as response:
            lines = (line for line in response.iter_lines() if line.startswith("data: "))
            seen = [json.loads(next(lines)[6:])]
            triton.process.send_signal(signal.SIGTERM)
            seen += [json.loads(line[6:]) for line in lines]
        triton.client.close()  # Triton waits for idle connections too
        assert triton.process.wait(300) == 0
    assert "error" not in seen[-1]
    assert len(seen[-1]["text_output"].encode()) >= len(seen[0]["text_output"].encode())
    with serve(tmp_path / "r", tmp_path / "again") as triton:
        whole = triton.generate(**{**asked, "streaming": False}).json()
    assert seen[-1]["text_output"] == whole["text_output"]


def test_unloading_under_load_loses_nothing_and_frees_the_memory(
    engine: Path, tmp_path: Path
) -> None:
    asked = {**LONG, "sampling_param_max_tokens": 1500}
    with serve(write(engine, tmp_path / "r"), tmp_path, *EXPLICIT) as triton:
        assert triton.processes() == []
        for _ in range(3):
            load = f"/v2/repository/models/{MODEL}/load"
            assert triton.client.post(load).status_code == 200
            (process,) = triton.processes()
            outcomes: list[dict[str, Any]] = []

            def stream(outcomes: list[dict[str, Any]] = outcomes) -> None:
                outcomes += triton.ask(*[request(streaming=True, **asked) for _ in range(8)])

            streams = threading.Thread(target=stream)
            streams.start()
            triton.until("trtcoder:requests_running", 8)
            unload = f"/v2/repository/models/{MODEL}/unload"
            assert triton.client.post(unload).status_code == 200
            streams.join()
            served = [each for each in outcomes if each["error"] is None]
            # What was taken is answered whole; what came later is refused.
            assert served
            assert len({texts(each)[-1] for each in served}) == 1
            assert all(
                "not ready" in each["error"] or "unknown model" in each["error"]
                for each in outcomes
                if each["error"] is not None
            )
            until_gone(process)
            assert triton.client.get(f"/v2/models/{MODEL}/ready").status_code == 400
        assert triton.processes() == []


@pytest.mark.parametrize("model", [MODEL, UNARY])
def test_a_server_that_is_killed_leaves_no_process_behind(
    engine: Path, tmp_path: Path, model: str
) -> None:
    with serve(write(engine, tmp_path / "r"), tmp_path) as triton:
        processes = triton.processes()
        assert len(processes) == 2
        asked = request(model=model, stream=model == MODEL, streaming=model == MODEL, **LONG)
        # Its client hears nothing of the end, and is left to itself.
        client = threading.Thread(target=triton.ask, args=([asked] * 8), daemon=True)
        client.start()
        triton.until("trtcoder:requests_running", 8)
        triton.process.kill()
        for process in processes:
            until_gone(process)


def until_gone(process: int) -> None:
    """Return when a process has ended."""
    for _ in range(600):
        if not Path(f"/proc/{process}").exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"process {process} is still there")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        ("graph", "model.onnx has"),
        ("manifest", "not an engine folder"),
        ("settings", "unknown max_batches"),
    ],
)
def test_a_model_that_fails_to_load_says_why(
    engine: Path, tmp_path: Path, break_it: str, said: str
) -> None:
    repository = write(engine, tmp_path / "r", "--engine-as", "copy")
    version = repository / MODEL / "1"
    if break_it == "graph":
        (version / "engine" / "model.onnx").write_bytes(b"no graph")
    elif break_it == "manifest":
        (version / "engine" / "manifest.json").unlink()
    else:
        (version / "model.yaml").write_text("max_batches: 3\n")
    triton = start(repository, tmp_path / "work")
    try:
        assert triton.process.wait(300) == 1
    except subprocess.TimeoutExpired:
        triton.process.kill()
        raise
    log = triton.log.read_text()
    assert said in log
    assert "Traceback" not in log


def test_a_model_that_fails_to_load_lets_the_others_live(engine: Path, tmp_path: Path) -> None:
    repository = write(engine, tmp_path / "r", "--engine-as", "copy", "--older-names")
    (repository / MODEL / "1" / "model.yaml").write_text("max_batches: 3\n")
    options = ("--exit-on-error", "false", "--strict-readiness", "false")
    with serve(repository, tmp_path, *options) as triton:
        assert triton.client.get("/v2/models/preprocessing/ready").status_code == 200
        assert triton.client.get(f"/v2/models/{MODEL}/ready").status_code == 400
        response = triton.generate("ensemble", text_input="a", max_tokens=3)
        assert response.status_code >= 400
        assert "tensorrt_llm" in response.json()["error"]


def test_a_numpy_that_this_triton_does_not_know_is_named(engine: Path, tmp_path: Path) -> None:
    # The own packages have NumPy 2, and the server is older.
    python = models_python(tmp_path, Path(np.__file__).parents[1])
    triton = start(write(engine, tmp_path / "r"), tmp_path / "work", python=python)
    assert triton.process.wait(300) == 1
    assert "pip install 'numpy<2'" in triton.log.read_text()


def test_packages_that_were_packed_serve_where_python_has_none(
    engine: Path, tmp_path: Path
) -> None:
    packer = models_python(tmp_path / "packer") / "python3"
    main = "from trtcoder.cli import main; main()"
    options = ["triton", str(engine), "-o", str(tmp_path / "r"), "--environment"]
    subprocess.run([str(packer), "-c", main, *options], check=True, env={"PATH": "/usr/bin:/bin"})
    bare = Path(sys.executable).resolve().parent
    with serve(tmp_path / "r", tmp_path, python=bare) as triton:
        for model in (MODEL, UNARY):
            response = triton.generate(model, text_input=PROMPT, sampling_param_max_tokens=3)
            assert response.status_code == 200, response.text


def test_requests_that_end_while_they_are_looked_at(engine: Path, tmp_path: Path) -> None:
    repository = write(engine, tmp_path / "r")
    settings = repository / MODEL / "1" / "model.yaml"
    often = settings.read_text().replace("check_period_ms: 50", "check_period_ms: 1")
    settings.write_text(often)
    with serve(repository, tmp_path) as triton:
        for _ in range(4):
            asked = [request(streaming=True, sampling_param_max_tokens=3) for _ in range(64)]
            assert [each["error"] for each in triton.ask(*asked)] == [None] * 64


def test_without_streams_the_model_takes_unary_calls(engine: Path, tmp_path: Path) -> None:
    with serve(write(engine, tmp_path / "r", "--no-streams"), tmp_path) as triton:
        asked: dict[str, Any] = {"sampling_param_max_tokens": 8, "sampling_param_temperature": 0.0}
        unary, stream, left, refused = triton.ask(
            request(stream=False, **asked),
            request(stream=True, **asked),
            request(stream=False, cancel_after=0, **LONG),
            request(stream=False, streaming=True, **asked),
        )
        assert texts(unary) == texts(stream)
        assert "answers in one response" in refused["error"]
        assert "CANCELLED" in left["error"]
        triton.until("trtcoder:requests_running", 0)
        assert triton.metric("trtcoder:generation_tokens_total") < 2000
