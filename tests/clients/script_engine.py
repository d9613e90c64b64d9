"""An engine that says what a script says, after conversations of any length.

Agents send prompts of twenty thousand tokens and want a tool called. The demo model would take
minutes for the one and was never trained on the other. This engine honours the graph's contract,
so all of the server is real: it looks at the last tokens of its sequence, in the cache, and where
they end as a rule says, the rule's token comes next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.toy_engine import BLOCK, EOS, VOCAB, byte_tokenizer, toy_manifest
from trtcoder.bundle.onnx import CacheInfo
from trtcoder.bundle.writer import BundleWriter
from trtcoder.prompting.tokenizer import TextTokenizer

POSITIONS = 1 << 19
# Tokens that a rule may look at; a byte is a token.
LOOKS_AT = 40
_ANY = -2


def write_script_engine(folder: Path, name: str, answers: Mapping[str, str]) -> Path:
    """Write an engine that, where a text ends with a key of ``answers``, goes on with its value.

    The longest key that fits is taken; where none does, the answer ends.
    """
    manifest = toy_manifest()
    model = dataclasses.replace(manifest.model, name=name, max_positions=POSITIONS)
    assert manifest.onnx is not None
    graph = dataclasses.replace(manifest.onnx.graph, caches=(CacheInfo("cache.0", "float32", 1),))
    parts = dataclasses.replace(manifest.onnx, graph=graph)
    with BundleWriter(folder) as writer:
        onnx.save(_graph(_rules(answers)), str(writer.folder / "model.onnx"))
        byte_tokenizer().save(str(writer.folder / "tokenizer.json"))
        writer.commit(dataclasses.replace(manifest, model=model, onnx=parts))
    return folder


def _rules(answers: Mapping[str, str]) -> list[tuple[list[int], int]]:
    """Return what the last tokens are, and which one comes then."""
    encode = TextTokenizer(byte_tokenizer()).encode
    rules: dict[tuple[int, ...], int] = {}
    for before, answer in answers.items():
        tokens, start = [*encode(before), *encode(answer), EOS], len(encode(before))
        for index in range(start, len(tokens)):
            # Inside of an answer more is looked at than any key has.
            length = min(index, start if index == start else LOOKS_AT)
            seen = tuple(tokens[index - length : index][-LOOKS_AT:])
            if rules.setdefault(seen, tokens[index]) != tokens[index]:
                raise ValueError(f"two answers to {before!r} begin alike")
    return [(list(seen), token) for seen, token in rules.items()]


def _graph(rules: list[tuple[list[int], int]]) -> onnx.ModelProto:
    patterns = np.full((len(rules), LOOKS_AT), _ANY, np.float32)
    scores = np.zeros((len(rules), VOCAB), np.float32)
    for number, (seen, token) in enumerate(rules):
        # The last token stands first.
        patterns[number, : len(seen)] = seen[::-1]
        scores[number, token] = 1000.0 + len(seen)
    end = np.zeros(VOCAB, np.float32)
    end[EOS] = 1.0
    constants: dict[str, np.ndarray] = {
        "patterns": patterns,
        "is_any": patterns == _ANY,
        "scores": scores,
        "end": end,
        "back": np.arange(LOOKS_AT, dtype=np.int64)[None, :],
        "block": np.array(BLOCK, np.int64),
        "zero": np.array(0, np.int64),
        "nothing": np.array(-1, np.float32),
        "axis1": np.array([1], np.int64),
        "axis2": np.array([2], np.int64),
    }
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
        # Write this step's tokens.
        ("Cast", ["input_ids"], "ids", {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["ids", "axis1"], "rows", {}),
        ("Unsqueeze", ["slots", "axis1"], "targets", {}),
        ("ScatterND", ["cache.0", "targets", "rows"], "cache.0.out", {}),
        # Read the last tokens before each sample, where the block table says they are.
        ("Gather", ["positions", "sample_rows"], "own", {}),
        ("Unsqueeze", ["own", "axis1"], "own2", {}),
        ("Sub", ["own2", "back"], "wanted", {}),
        ("Max", ["wanted", "zero"], "safe", {}),
        ("Div", ["safe", "block"], "number", {}),
        ("Mod", ["safe", "block"], "offset", {}),
        ("Gather", ["sequences", "sample_rows"], "sequence", {}),
        ("Gather", ["block_table", "sequence"], "blocks", {}),
        ("GatherElements", ["blocks", "number"], "found", {"axis": 1}),
        ("Mul", ["found", "block"], "starts", {}),
        ("Add", ["starts", "offset"], "places", {}),
        ("Gather", ["cache.0.out", "places"], "tokens3", {}),
        ("Squeeze", ["tokens3", "axis2"], "tokens", {}),
        ("GreaterOrEqual", ["wanted", "zero"], "is_there", {}),
        ("Where", ["is_there", "tokens", "nothing"], "seen", {}),
        # A rule counts where all that it looks at is as it says.
        ("Unsqueeze", ["seen", "axis1"], "seen3", {}),
        ("Equal", ["seen3", "patterns"], "same", {}),
        ("Or", ["same", "is_any"], "fits", {}),
        ("Cast", ["fits"], "fits1", {"to": TensorProto.FLOAT}),
        ("ReduceMin", ["fits1", "axis2"], "counts", {"keepdims": 0}),
        ("Unsqueeze", ["counts", "axis2"], "counts3", {}),
        ("Mul", ["counts3", "scores"], "scored", {}),
        ("ReduceMax", ["scored", "axis1"], "best", {"keepdims": 0}),
        ("Add", ["best", "end"], "logits", {}),
    ]
    ints = {name: ["tokens"] for name in ("input_ids", "positions", "slots", "sequences")} | {
        "block_table": ["sequences", "blocks"],
        "sample_rows": ["samples"],
    }
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [out], **kw) for op, inputs, out, kw in nodes],
        "script",
        [helper.make_tensor_value_info(n, TensorProto.INT64, s) for n, s in ints.items()]
        + [helper.make_tensor_value_info("cache.0", TensorProto.FLOAT, ["rows", 1])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["samples", VOCAB]),
            helper.make_tensor_value_info("cache.0.out", TensorProto.FLOAT, ["rows", 1]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
