from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.runtime.server.serving import Server, serve
from tests.toy_engine import write_toy_engine
from trtcoder.errors import DependencyError, RequestError
from trtcoder.runtime.server.trace_target import is_traced

SECRET = "do not trace this"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """An OTLP receiver on a socket of its own; keeps what it was sent."""

    def __init__(self) -> None:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.bodies.append((self.path, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.bodies: list[tuple[str, bytes]] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spans(self) -> list[tuple[dict[str, Any], Any]]:
        """Return each span with its resource's attributes."""
        found = []
        for path, body in self.bodies:
            assert path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                of_resource = attributes(resource.resource)
                for scope in resource.scope_spans:
                    found += [(of_resource, span) for span in scope.spans]
        return found


def attributes(holder: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in holder.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = (
            [item.string_value for item in value.values] if kind == "array_value" else value
        )
    return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.close()


def ask(server: Server) -> None:
    """Ask for a completion, a middle that is streamed, and what is refused."""
    body = {"prompt": SECRET, "max_tokens": 3, "ignore_eos": True, "temperature": 0.5, "n": 2}
    sent = server.client.post("/v1/completions", json=body, headers={"traceparent": PARENT})
    assert sent.status_code == 200
    server.events("/v1/fim/completions", prompt=SECRET, suffix=SECRET, max_tokens=2)
    server.events("/v1/chat/completions", messages=[{"role": "user", "content": "x"}], max_tokens=1)
    assert server.post("/v1/completions", prompt=SECRET, top_p=7).status_code == 400
    assert server.client.get("/v1/models").status_code == 200


def test_each_request_is_a_span_with_its_cost_and_without_its_text(
    collector: Collector, tmp_path: Path
) -> None:
    engine = write_toy_engine(tmp_path / "engine")
    with serve(engine, tmp_path, "--otel-endpoint", f"{collector.address}/") as server:
        ask(server)
    found = collector.spans()
    assert SECRET.encode() not in b"".join(body for _, body in collector.bodies)
    assert {resource["service.name"] for resource, _ in found} == {"trtcoder"}
    done = {
        span.name: (span, attributes(span))
        for _, span in found
        if attributes(span)["http.response.status_code"] == 200
    }
    assert set(done) == {
        "POST /v1/completions", "POST /v1/fim/completions", "POST /v1/chat/completions",
    }  # fmt: skip
    first, of_first = done["POST /v1/completions"]
    assert first.trace_id.hex() == PARENT.split("-")[1]
    assert first.parent_span_id.hex() == PARENT.split("-")[2]
    assert f'"trace": "{first.trace_id.hex()}"' in (tmp_path / "serve.log").read_text()
    assert first.kind == first.SPAN_KIND_SERVER
    assert of_first["http.route"] == "/v1/completions"
    assert of_first["http.response.status_code"] == 200
    assert of_first["gen_ai.operation.name"] == "text_completion"
    assert of_first["gen_ai.response.model"] == "deepseek-toy"
    assert of_first["gen_ai.usage.input_tokens"] == 1 + len(SECRET)
    assert of_first["gen_ai.usage.output_tokens"] == 6
    assert of_first["gen_ai.response.finish_reasons"] == ["length", "length"]
    assert of_first["gen_ai.request.temperature"] == 0.5
    assert of_first["gen_ai.request.choice.count"] == 2
    assert of_first["trtcoder.request_id"]
    seconds = (first.end_time_unix_nano - first.start_time_unix_nano) / 1e9
    assert 0 <= of_first["trtcoder.queue_seconds"] < of_first["gen_ai.server.time_to_first_token"]
    assert of_first["gen_ai.server.time_to_first_token"] <= seconds
    assert done["POST /v1/chat/completions"][1]["gen_ai.operation.name"] == "chat"
    statuses = [(attributes(span)["http.response.status_code"], span) for _, span in found]
    refused = [attributes(span) for status, span in statuses if status == 400]
    assert len(refused) == 1
    assert "gen_ai.usage.input_tokens" not in refused[0]


def test_the_environment_of_opentelemetry_is_heeded(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = write_toy_engine(tmp_path / "engine")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    with serve(engine, tmp_path) as server:
        ask(server)
    assert {resource["service.name"] for resource, _ in collector.spans()} == {"ours"}
    sent = len(collector.bodies)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with serve(engine, tmp_path) as server:
        ask(server)
    assert len(collector.bodies) == sent


def test_a_collector_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    engine = write_toy_engine(tmp_path / "engine")
    with serve(engine, tmp_path, "--otel-endpoint", "http://127.0.0.1:9") as server:
        ask(server)
        server.process.terminate()
        assert server.process.wait(timeout=30) in (0, 143)


def test_without_it_nothing_of_it_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from trtcoder.runtime.server.app import create_app\n"
        "from trtcoder.runtime.server.engines import Engines\n"
        "from trtcoder.runtime.server.settings import ServerSettings\n"
        "create_app(Engines(), ServerSettings())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_what_cannot_be_traced_is_said_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not is_traced(None, {})
    assert not is_traced(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "true"})
    with pytest.raises(RequestError, match="otel_endpoint is 'collector:4317'"):
        is_traced("collector:4317", {})
    with pytest.raises(RequestError, match="only http/protobuf"):
        is_traced("http://collector", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(DependencyError, match=r"pip install 'trtcoder\[otel\]'"):
        is_traced("http://collector", {})
