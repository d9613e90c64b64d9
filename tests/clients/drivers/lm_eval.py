"""EleutherAI's evaluation harness, which asks for the log-probabilities of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.clients.client import Client
from tests.clients.package import Package
from tests.clients.session import DEMO_CHECKPOINT, DEMO_ENGINE, ClientError, Session
from trtcoder import LLM

PACKAGE = Package("pip", "lm-eval[api]", "0.4.13", also=("transformers==5.24.0",))
TASK = """\
task: small
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{before}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""
# Text is generated for it, and compared with what is expected.
WRITTEN = """\
task: written
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{before}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 8
  do_sample: false
metric_list:
  - metric: exact_match
"""
ITEMS = [
    {"before": "def add(a, b):\n    return", "choices": [" a + b", " a - b"], "answer": 0},
    {"before": "for i in", "choices": [" range(10):", " print("], "answer": 0},
    {"before": "import", "choices": [" import", " os"], "answer": 1},
]


def run(session: Session) -> None:
    """Evaluate two small tasks, and compare log-probabilities and texts with the library's."""
    data = session.work / "items.jsonl"
    data.write_text("".join(f"{json.dumps(item)}\n" for item in ITEMS))
    (session.work / "small.yaml").write_text(TASK.format(data=data))
    (session.work / "written.yaml").write_text(WRITTEN.format(data=data))
    with session.demo("--deterministic") as server:
        model = server.client.get("/v1/models").json()["data"][0]["id"]
        address = f"base_url={server.address}/v1/completions"
        # It would ask the server for one otherwise, by an endpoint that is vLLM's own.
        tokenizer = f"tokenizer_backend=huggingface,tokenizer={DEMO_CHECKPOINT}"
        session.run(
            PACKAGE.program("lm_eval"), "run", "--model", "local-completions",
            "--model_args", f"model={model},{address},{tokenizer},tokenized_requests=True",
            "--tasks", "small,written", "--include_path", session.work,
            "--output_path", session.work / "out", "--log_samples",
        )  # fmt: skip
    (samples,) = (session.work / "out").rglob("samples_small_*.jsonl")
    found = _log_probabilities(samples)
    expected = _offline()
    if len(found) != len(expected):
        raise ClientError(f"expected {len(expected)} log-probabilities, found {len(found)}")
    for text, value in expected.items():
        if abs(found[text] - value) > 1e-3:
            raise ClientError(f"{text!r}: offline {value}, by the harness {found[text]}")
    (samples,) = (session.work / "out").rglob("samples_written_*.jsonl")
    texts = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    if texts != _written():
        raise ClientError(f"offline {_written()}, by the harness {texts}")


def _log_probabilities(samples: Path) -> dict[str, float]:
    """Return what the harness found, by the whole text."""
    found: dict[str, float] = {}
    for line in samples.read_text().splitlines():
        sample: dict[str, Any] = json.loads(line)
        for arguments, answers in zip(sample["arguments"].values(), sample["resps"], strict=True):
            found[arguments["arg_0"] + arguments["arg_1"]] = float(answers[0][0])
    return found


def _offline() -> dict[str, float]:
    """Return the same by the library, a sequence at a time."""
    found: dict[str, float] = {}
    with LLM(DEMO_ENGINE) as llm:
        encode = llm.tokenizer.encode
        for item in ITEMS:
            before = str(item["before"])
            for choice in item["choices"]:  # type: ignore[attr-defined]
                ids, start = encode(before + choice), len(encode(before))
                (output,) = llm.generate(prompt_token_ids=[ids], max_tokens=1, prompt_logprobs=0)
                assert output.prompt_logprobs is not None
                values = output.prompt_logprobs.tokens[start:]
                found[before + choice] = sum(value for value in values if value is not None)
    return found


def _written() -> list[str]:
    """Return what the library goes on with behind each item."""
    with LLM(DEMO_ENGINE) as llm:
        # As the harness sends them: token ids, and no BOS in front.
        asked = [llm.tokenizer.encode(str(item["before"])) for item in ITEMS]
        outputs = llm.generate(prompt_token_ids=asked, max_tokens=8, stop=["\n"], temperature=0.0)
    return [output.outputs[0].text for output in outputs]


CLIENT = Client(
    "lm-eval",
    PACKAGE,
    PACKAGE.version,
    ("/v1/completions",),
    "log-probabilities of a multiple choice as the library's, within 0.001; a written answer",
    run,
)
