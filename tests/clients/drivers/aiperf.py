"""NVIDIA's AIPerf, which loads a server and counts."""

from __future__ import annotations

import json
from typing import Any

from tests.clients.client import Client
from tests.clients.drivers.sdk import same
from tests.clients.package import Package
from tests.clients.session import DEMO_CHECKPOINT, Session

PACKAGE = Package("pip", "aiperf", "0.13.0")
REQUESTS, TOKENS = 12, 16


def run(session: Session) -> None:
    """Stream chats from two clients at a time, each of a set number of tokens."""
    out = session.work / "out"
    with session.demo() as server:
        model = server.client.get("/v1/models").json()["data"][0]["id"]
        session.run(
            PACKAGE.program("aiperf"), "profile", "--model", model, "--url", server.address,
            "--endpoint-type", "chat", "--streaming", "--tokenizer", DEMO_CHECKPOINT,
            "--concurrency", "2", "--request-count", str(REQUESTS),
            "--synthetic-input-tokens-mean", "64", "--output-tokens-mean", str(TOKENS),
            "--extra-inputs", "ignore_eos:true", "--extra-inputs", f"min_tokens:{TOKENS}",
            "--use-server-token-count", "--artifact-dir", out, "--ui", "none",
        )  # fmt: skip
    (path,) = out.rglob("profile_export_aiperf.json")
    found: dict[str, Any] = json.loads(path.read_text())
    same("the requests that were answered", found["request_count"]["avg"], REQUESTS)
    same("the tokens of an answer", found["output_sequence_length"]["avg"], TOKENS)
    assert not found.get("error_summary")


CLIENT = Client(
    "aiperf",
    PACKAGE,
    PACKAGE.version,
    ("/v1/chat/completions",),
    f"{REQUESTS} streamed chats of {TOKENS} tokens, counted by usage, none failed",
    run,
)
