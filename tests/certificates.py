"""Makes small certificates, and engine folders that carry them, without building anything."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tests.bundle.test_bundle import MANIFEST
from trtcoder.bundle.comparison import Comparison, Gate, Histogram, Layer, Logits, Text
from trtcoder.bundle.writer import BundleWriter
from trtcoder.calib.storage.record import TensorRecord
from trtcoder.typed_json import plain

EXPERTS = 4
HISTOGRAM = Histogram((-5.0, -4.0, -3.0, -2.0, -1.0, 0.0), (0, 100, 700, 150, 50))


def old_certificate() -> dict[str, Any]:
    """Return a certificate of format 1, as the writer's own classes write it."""
    report = Comparison(
        precision="int4",
        verdict="measured",
        quality="poor",
        gates=(
            Gate("KL mean", 0.0123, None, None),
            Gate("router disagreements", 37.0, None, None),
            Gate("KL mean, as asked", 0.0123, 0.02, True),
            Gate("values not finite in engine logits", 3.0, 0.0, False),
        ),
        logits=Logits(
            positions=1000, max_abs=2.5, relative_error=0.21, kl_mean=0.0123, kl_p99=0.0456,
            kl_max=0.789, kl_histogram=HISTOGRAM, top1_agreement=0.934, top1_ambiguous=4,
            top1_wrong=62, after_tie=0, judged_relative_error=0.21, judged_kl_max=0.789,
            context_nats=0.3, constant_top1=0.1,
        ),
        layers=(
            Layer(0, 0.011, 0.02, None, None, None, None),
            Layer(1, 0.0234, 0.05, 0.971, 1, 28, 0),
            Layer(2, 0.0345, 0.09, 0.912, 0, 88, 0),
        ),
        texts=(
            Text("plain", 800, 2400, 7.5, 7.65, 0.61, 0.62),
            Text("far", 200, 0, 50.0, 52.0, None, None),
        ),
    )  # fmt: skip
    written = plain(report)
    for key in ("kl_histogram", "context_nats", "constant_top1"):
        del written["logits"][key]
    del written["quality"]
    return {
        "format": 1,
        "reference": {"checkpoint": "ab" * 32, "versions": {"torch": "2.13.0", "numpy": "2.4.6"}},
        "text": {"source": "held.jsonl", "sequences": 9, "tokens": 1000, "far_position": 8192},
        "weights_only_kl": 0.0111,
        **written,
    }


def certificate() -> dict[str, Any]:
    """Return a certificate of format 2 with everything in it."""
    data = old_certificate()
    data["format"] = 2
    data["verdict"], data["quality"] = "failed", "poor"
    data["logits"] |= {"context_nats": 0.3, "constant_top1": 0.1}
    data["logits"]["kl_histogram"] = json.loads(json.dumps(dataclasses.asdict(HISTOGRAM)))
    data["tensors"] = [plain(record.stated()) for record in _records()]
    data["calibration"] = {
        "method": "gptq",
        "source": "sources",
        "digest": "cd" * 32,
        "seed": 7,
        "sequences": 12,
        "tokens": 4321,
        "kinds": {"plain": 4000, "fim": 321},
        "dropped": 3,
        "experts": {
            "minimum": 32,
            "tokens": {"1": [100, 40, 300, 3], "2": [64, 128, 500, 33]},
            "short": [[1, 3, 5]],
        },
    }
    data["plan"] = {
        "goal": {"max_kl": 0.015},
        "predicted_kl": 0.0117,
        "classes": [
            {
                "class": "attention",
                "values": 4096,
                "chosen": "int8 b32",
                "options": [
                    {"scheme": "int4 b32", "bytes": 2304, "kl": 0.0091},
                    {"scheme": "int8 b32", "bytes": 4352, "kl": 0.0002},
                ],
            }
        ],
        "rounds": [{"budget": 0.015, "predicted_kl": 0.0117, "measured_kl": 0.0123, "bytes": 9000}],
    }
    return data


def write_certificate(path: Path, data: dict[str, Any]) -> Path:
    """Write a certificate's file."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True), encoding="utf-8")
    return path


def write_engine(folder: Path, data: dict[str, Any] | None, **manifest: Any) -> Path:
    """Write an engine folder that carries ``data``, or no certificate."""
    with BundleWriter(folder) as writer:
        (writer.folder / "model.onnx").write_bytes(b"graph of no use")
        if data is not None:
            write_certificate(writer.folder / "parity.json", data)
        writer.commit(dataclasses.replace(MANIFEST, **manifest))
    return folder


def _records() -> list[TensorRecord]:
    records = [
        TensorRecord("embed_tokens", "embedding", "int8 b32", "rtn", 8192, 8704, 99.0, 0.001),
        TensorRecord("layers.0/norm", "norms", "bfloat16", "exact", 64, 128, 10.0),
        TensorRecord("layers.0/q", "attention", "int8 b32", "gptq", 4096, 4352, 90.0, 0.02),
        TensorRecord("layers.1/q", "attention", "int8 b32", "gptq", 4096, 4352, 90.0, 0.03),
    ]  # fmt: skip
    for layer in (1, 2):
        for expert in range(EXPERTS):
            is_short = (layer, expert) == (1, 3)
            records.append(
                TensorRecord(
                    f"layers.{layer}/moe/experts/down[{expert}]", "experts_down", "int4 b32",
                    "rtn" if is_short else "gptq", 2048, 1152, 50.0, 4.0 if is_short else 0.5, 0.07,
                    "reached by 5 calibration tokens, 32 needed" if is_short else None,
                )
            )  # fmt: skip
    return records
