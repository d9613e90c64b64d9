from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.runtime.server.serving import Server, serve, wait_for
from tests.toy_engine import toy_manifest, write_toy_engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with a context that takes seconds to fill."""
    model = dataclasses.replace(toy_manifest().model, max_positions=20_000)
    manifest = dataclasses.replace(toy_manifest(), model=model)
    return write_toy_engine(tmp_path_factory.mktemp("toy") / "engine", manifest)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(folder, tmp_path_factory.mktemp("server"), "--max-batch", "2") as started:
        yield started


LONG: dict[str, Any] = {"prompt": "a", "max_tokens": 900, "ignore_eos": True}


def cancelled(server: Server) -> float:
    return server.metric("trtcoder:requests_finished_total", "cancelled")


def idle(server: Server) -> bool:
    running = server.metric("trtcoder:requests_running")
    return running == 0 and server.metric("trtcoder:requests_waiting") == 0


def test_the_log_says_whose_operators_run_an_engine(server: Server) -> None:
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    (serving,) = (line for line in lines if line["event"] == "serving")
    assert serving["runs_on"].startswith("ONNX Runtime's own operators")


def test_a_client_who_leaves_ends_a_request_that_does_not_stream(server: Server) -> None:
    before, generated = cancelled(server), server.metric("trtcoder:generation_tokens_total")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.address}/v1/completions", json={**LONG, "n": 30}, timeout=0.3)
    wait_for(lambda: cancelled(server) > before and idle(server))
    assert server.metric("trtcoder:generation_tokens_total") - generated < 20_000


# More than the engine computes while a test waits.
ENDLESS = 15_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": ENDLESS, "ignore_eos": True}),
        ("/v1/fim/completions", {"prompt": "a", "max_tokens": ENDLESS, "ignore_eos": True}),
        (
            "/infill",
            {"input_prefix": "a", "input_suffix": "", "n_predict": ENDLESS, "ignore_eos": True},
        ),
        ("/completion", {"prompt": "a", "n_predict": ENDLESS, "ignore_eos": True}),
        (
            "/api/generate",
            {"model": "", "prompt": "a", "suffix": "b", "options": {"num_predict": ENDLESS}},
        ),
        (
            "/api/chat",
            {
                "model": "",
                "messages": [{"role": "user", "content": "a"}],
                "options": {"num_predict": ENDLESS},
            },
        ),
    ],
)
def test_a_reader_who_leaves_ends_a_request_of_any_dialect(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    before, generated = cancelled(server), server.metric("trtcoder:generation_tokens_total")
    with server.client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        next(response.iter_lines())
    # The first line may come before the engine begins: an idle engine tells nothing.
    wait_for(lambda: cancelled(server) == before + 1)
    assert idle(server)
    assert server.metric("trtcoder:generation_tokens_total") - generated < ENDLESS // 2


def test_a_client_who_leaves_while_it_waits_is_forgotten(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            pool.submit(lambda: server.post("/v1/completions", **LONG, n=1))
        wait_for(lambda: server.metric("trtcoder:requests_running") == 2)
        asked = {**LONG, "max_tokens": ENDLESS}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.address}/v1/completions", json=asked, timeout=0.2)
    wait_for(lambda: idle(server))


def test_a_full_queue_is_429_with_the_time_to_come_back(folder: Path, tmp_path: Path) -> None:
    small = serve(folder, tmp_path, "--max-batch", "1", "--max-queue", "1")
    with small as server, ThreadPoolExecutor(8) as pool:
        longer = {**LONG, "max_tokens": 2 * LONG["max_tokens"]}
        running = pool.submit(lambda: server.post("/v1/completions", **longer))
        wait_for(lambda: server.metric("trtcoder:requests_running") == 1)
        found = list(pool.map(lambda _: server.post("/v1/completions", **LONG), range(7)))
    codes = [response.status_code for response in [running.result(), *found]]
    assert codes.count(200) >= 2
    assert codes.count(429) >= 1
    refused = next(response for response in found if response.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_sigterm_lets_running_answers_end_and_takes_no_more(folder: Path, tmp_path: Path) -> None:
    with serve(folder, tmp_path, "--drain", "20") as server:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(lambda: server.post("/v1/completions", **LONG))
            wait_for(lambda: server.metric("trtcoder:requests_running") == 1)
            server.process.send_signal(signal.SIGTERM)
            assert running.result().status_code == 200
            assert running.result().json()["usage"]["completion_tokens"] == 900
        assert server.process.wait(timeout=20) in (0, 143)


def test_a_server_that_drains_says_so_to_whoever_comes(folder: Path, tmp_path: Path) -> None:
    body = {"prompt": "a", "max_tokens": ENDLESS, "ignore_eos": True, "stream": True}
    with serve(folder, tmp_path, "--drain", "60") as server:
        with server.client.stream("POST", "/v1/completions", json=body) as running:
            lines = running.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: httpx.get(f"{server.address}/health/ready").status_code == 503)
            found = httpx.get(f"{server.address}/health/ready").json()
            assert found == {"status": "not ready", "reason": "the server is shutting down"}
            refused = httpx.post(f"{server.address}/v1/completions", json={"prompt": "a"})
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            next(lines)  # it goes on
        # Its reader has left, and nothing else is to be waited for.
        assert server.process.wait(timeout=30) in (0, 143)


def test_sigterm_ends_answers_that_take_longer(folder: Path, tmp_path: Path) -> None:
    body = {**LONG, "max_tokens": 4000, "n": 8}
    with serve(folder, tmp_path, "--drain", "1") as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: server.post("/v1/completions", **body))
        wait_for(lambda: server.metric("trtcoder:requests_running") > 0)
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        server.process.wait(timeout=20)
        assert time.monotonic() - started < 10
        with pytest.raises(httpx.HTTPError):
            running.result().raise_for_status()


def test_keys_are_asked_for(folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\nfirst-key\n\nsecond-key\n")
    with serve(folder, tmp_path, "--api-key-file", str(keys)) as server:
        assert server.client.get("/health/ready").status_code == 200
        for headers in ({}, {"authorization": "Bearer no"}, {"authorization": "Basic first-key"}):
            response = server.client.get("/v1/models", headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
        for headers in ({"authorization": "Bearer second-key"}, {"x-api-key": "first-key"}):
            assert server.client.get("/v1/models", headers=headers).status_code == 200
        log = server.log.read_text()
        assert '"client": "key-' in log
        assert "second-key" not in log


def test_what_can_be_got_can_be_looked_at(server: Server) -> None:
    # AIPerf asks so whether there are metrics.
    for path in ("/metrics", "/health", "/v1/models", "/v1/models/deepseek-toy", "/api/tags"):
        response = server.client.head(path)
        assert response.status_code == 200
        assert response.content == b""
        assert server.client.get(path).content
    assert server.client.head("/v1/completions").status_code == 405
    assert server.client.head("/v1/models/other").status_code == 404


def test_other_hosts_are_refused_on_loopback(server: Server) -> None:
    for host, status in (("evil.example", 403), ("localhost:1", 200), ("127.0.0.1", 200)):
        found = server.client.get("/v1/models", headers={"host": host})
        assert found.status_code == status


def test_large_bodies_are_refused_however_they_come(folder: Path, tmp_path: Path) -> None:
    with serve(folder, tmp_path, "--max-body-mib", "1") as server:
        big = b'{"prompt": "' + b"a" * (2 << 20) + b'"}'
        headers = {"content-type": "application/json"}

        def chunks() -> Iterator[bytes]:
            yield big

        for content in (big, chunks()):
            try:
                response = server.client.post("/v1/completions", content=content, headers=headers)
            except httpx.HTTPError:
                continue  # it closed the connection before all was sent
            assert response.status_code == 413
        assert server.client.get("/health").status_code == 200


def test_the_log_has_request_ids_and_no_prompts(server: Server) -> None:
    secret = "do not write this down"
    response = server.client.post(
        "/v1/completions",
        json={"prompt": secret, "max_tokens": 1},
        headers={"x-request-id": "my-request"},
    )
    assert response.headers["x-request-id"] == "my-request"
    wait_for(lambda: "my-request" in server.log.read_text())
    assert secret not in server.log.read_text()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--host", "0.0.0.0"], "others can reach this address"),
        (["--api-key-file", "nowhere"], "nowhere: cannot be read"),
        (["--port", "{busy}"], "cannot listen there"),
        (["--config", "bad.toml"], "unknown prot"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(
    folder: Path, tmp_path: Path, options: list[str], error: str
) -> None:
    (tmp_path / "bad.toml").write_text("prot = 1\n")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        filled = [option.format(busy=busy.getsockname()[1]) for option in options]
        done = subprocess.run(
            [sys.executable, "-c", "from trtcoder.cli import main; main()", "serve", str(folder),
             *filled],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode in (1, 2)
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_options_come_from_the_environment_and_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serve.toml").write_text("context = 128\nmax-answer-tokens = 3\n")
    monkeypatch.setitem(os.environ, "TRTCODER_SERVE_CONTEXT", "100")
    with serve(folder, tmp_path, "--config", str(tmp_path / "serve.toml")) as server:
        (model,) = server.client.get("/v1/models").json()["data"]
        assert model["max_model_len"] == 100
        answer = server.post("/v1/completions", prompt="a", ignore_eos=True).json()
        assert answer["usage"]["completion_tokens"] == 3


def test_sighup_loads_a_new_engine_and_drops_no_request(folder: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(folder, engine)
    with serve(engine, tmp_path) as server, ThreadPoolExecutor(1) as pool:
        before = server.post("/v1/completions", prompt="a", max_tokens=1).json()
        running = pool.submit(lambda: server.post("/v1/completions", **LONG))
        wait_for(lambda: server.metric("trtcoder:requests_running") == 1)
        # A damaged engine is refused, and the old one goes on.
        tokenizer = (engine / "tokenizer.json").read_bytes()
        (engine / "tokenizer.json").write_bytes(b"x" * len(tokenizer))
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the old one goes on" in server.log.read_text())
        (engine / "tokenizer.json").write_bytes(tokenizer)
        shutil.rmtree(engine)
        other = dataclasses.replace(toy_manifest(), recipe={"weights": "int8", "cache": "fp32"})
        write_toy_engine(engine, other)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: '"reloaded"' in server.log.read_text())
        after = server.post("/v1/completions", prompt="a", max_tokens=1).json()
        assert after["system_fingerprint"] != before["system_fingerprint"]
        assert running.result().json()["usage"]["completion_tokens"] == 900
        assert running.result().json()["system_fingerprint"] == before["system_fingerprint"]
        wait_for(lambda: '"closed"' in server.log.read_text())


def test_several_engines_are_served_by_name(folder: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(toy_manifest().model, name="Other")
    other = write_toy_engine(tmp_path / "other", dataclasses.replace(toy_manifest(), model=model))
    with serve(folder, tmp_path, engines=[other]) as server:
        names = [model["id"] for model in server.client.get("/v1/models").json()["data"]]
        assert names == ["deepseek-toy", "deepseek-other"]
        for name in ("DeepSeek-Other", "deepseek-other:latest"):
            answer = server.post("/v1/completions", prompt="a", max_tokens=1, model=name).json()
            assert answer["model"] == "deepseek-other"
        assert server.post("/v1/completions", prompt="a", model="gpt-4").status_code == 404


def test_serving_needs_nothing_that_only_building_needs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each import is a line on standard error: the name stands behind the last bar.
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with serve(folder, tmp_path) as server:
        assert server.post("/v1/completions", prompt="a", max_tokens=1).status_code == 200
        log = server.log.read_text()
    imported = {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in log.splitlines()}
    assert "onnxruntime" in imported
    assert not imported & {
        "torch", "transformers", "onnx", "onnx_ir", "matplotlib", "numba", "ml_dtypes", "scipy"
    }  # fmt: skip
