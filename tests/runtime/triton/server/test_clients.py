"""What NVIDIA's programs do with a model under the llmapi names, with the demo engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.drivers.aiperf import PACKAGE
from tests.clients.session import DEMO_CHECKPOINT, DEMO_ENGINE
from tests.runtime.triton.server.conftest import write
from tests.runtime.triton.server.requests import MODEL, UNARY, request
from tests.runtime.triton.server.running import Triton, serve
from trtcoder.runtime.llm import LLM

# As many as NVIDIA's data set has.
PROMPTS = [f"# {number}: write a function\ndef f_{number}(x):\n" for number in range(13)]
LENGTH = 24


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    if not (DEMO_ENGINE / "manifest.json").exists():
        pytest.skip("there is no engines/demo-int4; run make triton")
    work = tmp_path_factory.mktemp("demo")
    with serve(write(DEMO_ENGINE, work / "repository"), work) as started:
        yield started


def ask(triton: Triton, texts: list[str], **options: Any) -> list[dict[str, Any]]:
    """Ask as the end-to-end client does: by an id a prompt, for one output or a few."""
    return triton.ask(
        *(
            request(
                text,
                id=str(number),
                sampling_param_max_tokens=LENGTH,
                return_finish_reason=True,
                return_stop_reason=True,
                **options,
            )
            | {"outputs": ["text_output", "finish_reason", "stop_reason"]}
            for number, text in enumerate(texts)
        )
    )


def test_nvidias_end_to_end_client(triton: Triton) -> None:
    with LLM(DEMO_ENGINE) as llm:
        expected = [output.outputs[0].text for output in llm.generate(PROMPTS, max_tokens=LENGTH)]
    unary = ask(triton, PROMPTS, model=UNARY, stream=False)
    streams = ask(triton, PROMPTS, streaming=True)
    for found in (unary, streams):
        assert [each["error"] for each in found] == [None] * len(PROMPTS)
        assert [each["responses"][-1]["text_output"][0] for each in found] == expected
        for each in found:
            for response in each["responses"]:
                # What the client asserts of every response.
                assert response["text_output"][0]
                assert response["finish_reason"]
                assert response["stop_reason"]


def test_the_same_over_http(triton: Triton) -> None:
    """Each prompt by `/infer`, as the client does by default."""
    for number, text in enumerate(PROMPTS):
        tensors = [
            {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [text]},
            {"name": "sampling_param_max_tokens", "datatype": "INT32", "shape": [1], "data": [8]},
        ]
        body = {"id": str(number), "inputs": tensors, "outputs": [{"name": "text_output"}]}
        response = triton.client.post(f"/v2/models/{UNARY}/infer", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["id"] == str(number)
        assert response.json()["outputs"][0]["data"][0]


def test_aiperf_loads_generate_stream(triton: Triton, tmp_path: Path) -> None:
    if not PACKAGE.is_installed:
        PACKAGE.install()
    template = tmp_path / "body.json.jinja"
    template.write_text(
        '{"text_input": {{ text|tojson }}, "sampling_param_max_tokens": 16, '
        '"sampling_param_ignore_eos": true, "streaming": true, "stream_deltas": true}'
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [
            PACKAGE.program("aiperf"), "profile", "--model", MODEL,
            "--url", f"{triton.client.base_url}", "--endpoint-type", "template", "--streaming",
            "--custom-endpoint", f"/v2/models/{MODEL}/generate_stream",
            "--extra-inputs", f"payload_template:{template}",
            "--extra-inputs", "response_field:text_output",
            "--tokenizer", str(DEMO_CHECKPOINT), "--concurrency", "2", "--request-count", "12",
            "--synthetic-input-tokens-mean", "64", "--artifact-dir", str(out), "--ui", "none",
        ],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = out.rglob("profile_export_aiperf.json")
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["request_count"]["avg"] == 12
    assert not found.get("error_summary")
    assert np.isfinite(found["inter_token_latency"]["avg"])
