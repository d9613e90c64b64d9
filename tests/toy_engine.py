"""A tiny engine that honours the graph's contract and can be computed by hand.

Every token adds its row of EMBEDDING to the cache; a logit row is the sum of the rows that the
token sees, times UNEMBEDDING. All numbers are small integers, so sums are exact in any order.
A script fixes the tokens that greedy decoding finds: after position p comes ``script[p]``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from trtcoder.bundle.certificate import FILE_NAME, Certificate
from trtcoder.bundle.manifest import (
    FORMAT,
    Capabilities,
    ChatFormat,
    Manifest,
    ModelInfo,
    SourceInfo,
    Tokens,
)
from trtcoder.bundle.onnx import CacheInfo, GraphInfo, OnnxParts, Requires
from trtcoder.bundle.writer import BundleWriter

VOCAB, WIDTH, BLOCK, POSITIONS = 264, 8, 4, 64
BOS, EOS, FIM_BEGIN, FIM_HOLE, FIM_END = range(256, 261)
SPECIAL = ("begin▁of▁sentence", "end▁of▁sentence", "fim▁begin", "fim▁hole", "fim▁end")
BOS_TEXT, EOS_TEXT = (f"<｜{name}｜>" for name in SPECIAL[:2])
CHAT_FORMAT = ChatFormat(
    BOS_TEXT, ("", "\n\n"), ("User: ", "\n\n"), ("Assistant: ", EOS_TEXT), "Assistant:"
)

_random = np.random.default_rng(0)
EMBEDDING = _random.integers(-3, 4, (VOCAB, WIDTH)).astype(np.float32)
UNEMBEDDING = _random.integers(-3, 4, (WIDTH, VOCAB)).astype(np.float32)
SCRIPTED = 1e7


def byte_tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer without merges: ids 0 to 255 are letters of one byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([f"<｜{name}｜>" for name in SPECIAL[:2]])
    tokenizer.add_tokens([f"<｜{name}｜>" for name in SPECIAL[2:]])
    return tokenizer


def expected_logits(tokens: Sequence[int]) -> np.ndarray:
    """Return the logits after the last of ``tokens``, float32 [vocab], without a script."""
    seen = EMBEDDING[list(tokens)].sum(axis=0) + np.sum(np.array(tokens) % 100)
    return np.asarray(seen @ UNEMBEDDING, np.float32)


def script(after: int, answer: Sequence[int]) -> dict[int, int]:
    """Return the script under which a prompt of ``after`` tokens is answered by ``answer``."""
    return dict(enumerate(answer, start=after - 1))


def toy_manifest(*, fim: bool = True, chat: bool = True, completion: bool = True) -> Manifest:
    return Manifest(
        format=FORMAT,
        trtcoder="0.1.0",
        target="onnx",
        model=ModelInfo("Toy", {"num_attention_heads": 1}, VOCAB, POSITIONS),
        source=SourceInfo("00" * 32, "F32"),
        recipe={"weights": "fp32", "cache": "fp32"},
        capabilities=Capabilities(completion=completion, fim=fim, chat=chat),
        chat_format=CHAT_FORMAT if chat else None,
        tokens=Tokens(BOS, (EOS,), FIM_BEGIN, FIM_HOLE, FIM_END, add_bos=True),
        files={},
        parity=None,
        onnx=OnnxParts(
            GraphInfo(
                "model.onnx",
                BLOCK,
                (CacheInfo("cache.0", "float32", WIDTH), CacheInfo("cache.1", "int8", 1)),
            ),
            Requires("1.31", "CPUExecutionProvider"),
        ),
    )


def write_toy_engine(
    folder: Path,
    manifest: Manifest | None = None,
    *,
    scripted: Mapping[int, int] | None = None,
    certificate: Mapping[str, Any] | None = None,
) -> Path:
    """Write a toy engine folder and return it."""
    manifest = manifest or toy_manifest()
    graph = toy_graph(scripted or {}, min(manifest.model.max_positions, 2048))
    with BundleWriter(folder) as writer:
        onnx.save(graph, str(writer.folder / "model.onnx"))
        byte_tokenizer().save(str(writer.folder / "tokenizer.json"))
        if certificate is not None:
            text = json.dumps(certificate)
            (writer.folder / FILE_NAME).write_text(text)
            summary = Certificate.from_json(text).summary()
            manifest = dataclasses.replace(manifest, parity=summary)
        writer.commit(manifest)
    return folder


def toy_graph(scripted: Mapping[int, int], positions: int = POSITIONS) -> onnx.ModelProto:
    """Return the graph; see the module's text."""
    bonus = np.zeros((positions, VOCAB), np.float32)
    for position, token in scripted.items():
        if position < positions:
            bonus[position, token] = SCRIPTED
    constants: dict[str, np.ndarray] = {
        "embedding": EMBEDDING,
        "unembedding": UNEMBEDDING,
        "bonus": bonus,
        "block": np.array(BLOCK, np.int64),
        "offsets": np.arange(BLOCK, dtype=np.int64),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "hundred": np.array(100, np.int64),
        "axis1": np.array([1], np.int64),
        "axis2": np.array([2], np.int64),
        "flat": np.array([0, -1], np.int64),
    }
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
        # Write this step's tokens.
        ("Gather", ["embedding", "input_ids"], "rows.0", {}),
        ("Mod", ["input_ids", "hundred"], "residue", {}),
        ("Cast", ["residue"], "residue8", {"to": TensorProto.INT8}),
        ("Unsqueeze", ["residue8", "axis1"], "rows.1", {}),
        ("Unsqueeze", ["slots", "axis1"], "targets", {}),
        ("ScatterND", ["cache.0", "targets", "rows.0"], "cache.0.out", {}),
        ("ScatterND", ["cache.1", "targets", "rows.1"], "cache.1.out", {}),
        # The cache rows of each token's own sequence, in logical order.
        ("Gather", ["block_table", "sequences"], "blocks", {}),
        ("Max", ["blocks", "zero"], "safe_blocks", {}),
        ("Mul", ["safe_blocks", "block"], "starts", {}),
        ("Unsqueeze", ["starts", "axis2"], "starts3", {}),
        ("Add", ["starts3", "offsets"], "visible3", {}),
        ("Reshape", ["visible3", "flat"], "visible", {}),
        ("Gather", ["cache.0.out", "visible"], "values.0", {}),
        ("Gather", ["cache.1.out", "visible"], "values8", {}),
        ("Cast", ["values8"], "values.1", {"to": TensorProto.FLOAT}),
        ("Add", ["values.0", "values.1"], "values", {}),
        # Sum those at or before the token's own position.
        ("Shape", ["visible"], "count", {"start": 1, "end": 2}),
        ("Squeeze", ["count"], "count0", {}),
        ("Range", ["zero", "count0", "one"], "logical", {}),
        ("Unsqueeze", ["positions", "axis1"], "own", {}),
        ("LessOrEqual", ["logical", "own"], "seen", {}),
        ("Cast", ["seen"], "weight", {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["weight", "axis2"], "weight3", {}),
        ("Mul", ["values", "weight3"], "weighted", {}),
        ("ReduceSum", ["weighted", "axis1"], "context", {"keepdims": 0}),
        ("Gather", ["context", "sample_rows"], "sampled", {}),
        ("MatMul", ["sampled", "unembedding"], "scores", {}),
        ("Gather", ["positions", "sample_rows"], "sampled_positions", {}),
        ("Gather", ["bonus", "sampled_positions"], "sampled_bonus", {}),
        ("Add", ["scores", "sampled_bonus"], "logits", {}),
    ]
    ints = {name: ["tokens"] for name in ("input_ids", "positions", "slots", "sequences")} | {
        "block_table": ["sequences", "blocks"],
        "sample_rows": ["samples"],
    }
    caches = (("cache.0", TensorProto.FLOAT, WIDTH), ("cache.1", TensorProto.INT8, 1))
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [out], **kw) for op, inputs, out, kw in nodes],
        "toy",
        [helper.make_tensor_value_info(n, TensorProto.INT64, s) for n, s in ints.items()]
        + [helper.make_tensor_value_info(n, t, ["rows", w]) for n, t, w in caches],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["samples", VOCAB])]
        + [helper.make_tensor_value_info(f"{n}.out", t, ["rows", w]) for n, t, w in caches],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
