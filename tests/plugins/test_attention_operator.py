from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.plugins.attention import (
    CACHES,
    WEIGHTS,
    Cache,
    HeadWeights,
    Layer,
    Shape,
    Text,
    Tokens,
    attend,
    pack,
)
from tests.plugins.kernels import library
from tests.plugins.test_operators import tensor
from trtcoder.plugins.library import DOMAIN

LIBRARY = library()
SHAPE = Shape(3, 8, 4, 20, 8)
INDICES = ("positions", "slots", "sequences", "block_table")
CACHE_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "float8": TensorProto.UINT8,
}


def arrays_of(name: str, weights: HeadWeights) -> dict[str, NDArray[Any]]:
    """Return the inputs of a matrix for each head."""
    found: dict[str, NDArray[Any]] = {f"{name}_values": weights.values}
    return found if weights.scales is None else {**found, f"{name}_scales": weights.scales}


def session(layer: Layer, kind: str, **changed: int) -> ort.InferenceSession:
    shape = layer.shape
    weights = {**arrays_of("key", layer.stored_key), **arrays_of("value", layer.stored_value)}
    block = layer.block if layer.kind == "int8" else 0
    names = [f"{name}_{part}" for name in ("key", "value") for part in ("values", "scales", "")]
    has_scales = kind in ("int8", "float8")
    starts = np.cumsum([0, shape.heads * shape.nope, shape.latent, shape.heads * shape.rope])
    sizes: dict[str, Any] = {
        "heads": shape.heads, "nope": shape.nope, "rope": shape.rope, "latent": shape.latent,
        "value": shape.value, "nope_start": 0, "latent_start": int(starts[1]),
        "rope_start": int(starts[2]), "key_rope_start": int(starts[3]),
        "scale": layer.softmax_scale, "epsilon": layer.epsilon,
        "bits": 8 if block else 0, "block": block, "int16": 1,
    }  # fmt: skip
    inputs = ["fused", "fused", "norm", "cos", "sin", *INDICES]
    inputs += [name if name in weights else "" for name in names]
    inputs += ["cache", "cache_scale"] if has_scales else ["cache"]
    outputs = ["out", "cache.out"] + (["cache_scale.out"] if has_scales else [])
    cache: dict[str, Any] = {"cache": (CACHE_TYPES[kind], ["rows", shape.width])}
    if has_scales:
        cache["cache_scale"] = (TensorProto.FLOAT, ["rows", shape.width // shape.group])
    graph = helper.make_graph(
        [
            helper.make_node(
                "LatentAttention", inputs, outputs, domain=DOMAIN, **{**sizes, **changed}
            )
        ],
        "attention",
        [
            helper.make_tensor_value_info("fused", TensorProto.FLOAT, ["tokens", "columns"]),
            *(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens", "half"])
                for name in ("cos", "sin")
            ),
            *(
                helper.make_tensor_value_info(name, TensorProto.INT64, ["n"])
                for name in INDICES[:3]
            ),
            helper.make_tensor_value_info("block_table", TensorProto.INT64, ["s", "b"]),
            *(helper.make_tensor_value_info(name, *form) for name, form in cache.items()),
        ],
        [
            helper.make_tensor_value_info("out", TensorProto.FLOAT, None),
            *(helper.make_tensor_value_info(f"{name}.out", *form) for name, form in cache.items()),
        ],
        [tensor(name, array) for name, array in {"norm": layer.norm, **weights}.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(LIBRARY.path))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feeds(tokens: Tokens, batch: Any) -> dict[str, NDArray[Any]]:
    fused = [tokens.query_nope, tokens.latent, tokens.query_rope, tokens.key_rope]
    return {
        "fused": np.concatenate(fused, 1),
        "cos": np.cos(tokens.angles)[None],
        "sin": np.sin(tokens.angles)[None],
        **{name: np.asarray(getattr(batch, name), np.int64) for name in INDICES},
    }


def run_in_place(run: ort.InferenceSession, inputs: dict[str, Any], cache: Cache) -> Any:
    binding = run.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    buffers = {"cache": cache.entries, "cache_scale": cache.scales}
    for name, array in buffers.items():
        if array is None:
            continue
        kind = CACHE_TYPES[cache.kind] if name == "cache" else np.float32
        place = ("cpu", 0, kind, array.shape, array.ctypes.data)
        binding.bind_input(name, *place)
        binding.bind_output(f"{name}.out", *place)
    binding.bind_output("out", "cpu")
    run.run_with_iobinding(binding)
    return binding.get_outputs()[-1].numpy()


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("int8", {"bits": 0, "block": 0}, "expected float32, float16 or bfloat16"),
        ("int8", {"bits": 4}, "bits: 4"),
        ("int8", {"block": 0}, "block: 0"),
        ("int8", {"block": 3}, "scales of the heads"),
        ("float32", {"bits": 8, "block": 32}, "expected int8"),
    ],
)
def test_weights_of_another_form_than_stated_are_refused(
    kind: str, changed: dict[str, int], message: str
) -> None:
    rng = np.random.default_rng(4)
    layer = Layer.random(rng, SHAPE, kind, block=4)
    tokens, batch = pack([Text.random(rng, SHAPE, 5, [0])], [(0, 5)])
    cache = np.zeros((16, SHAPE.width), np.float32)
    with pytest.raises(Exception, match=message):
        session(layer, "float32", **changed).run(None, {**feeds(tokens, batch), "cache": cache})


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", CACHES)
def test_the_runtime_attends_in_place(kind: str, weights: str) -> None:
    rng = np.random.default_rng(0)
    layer = Layer.random(rng, SHAPE, weights)
    text = Text.random(rng, SHAPE, 40, [1, 3, 0])
    run = session(layer, kind)
    found, wanted = Cache(kind, SHAPE, 64), Cache(kind, SHAPE, 64)
    for start, stop in ((0, 30), (30, 31), (31, 40)):
        tokens, batch = pack([text], [(start, stop)])
        out = run_in_place(run, feeds(tokens, batch), found)
        np.testing.assert_array_equal(out, attend(LIBRARY.isa, layer, tokens, batch, wanted))
        np.testing.assert_array_equal(found.bits, wanted.bits)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_a_cache_that_is_not_bound_in_place_is_copied(kind: str) -> None:
    rng = np.random.default_rng(1)
    layer = Layer.random(rng, SHAPE, "float32")
    text = Text.random(rng, SHAPE, 20, [1, 3])
    run = session(layer, kind)
    cache = Cache(kind, SHAPE, 64)
    tokens, batch = pack([text], [(0, 20)])
    inputs = {**feeds(tokens, batch), "cache": cache.entries}
    if cache.scales is not None:
        inputs["cache_scale"] = cache.scales
    before = cache.bits.copy()
    out, written, *_ = run.run(None, inputs)
    np.testing.assert_array_equal(cache.bits, before)
    np.testing.assert_array_equal(out, attend(LIBRARY.isa, layer, tokens, batch, cache))
    np.testing.assert_array_equal(written.view(cache.bits.dtype), cache.bits)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("key_rope_start", 59, "latent: columns 59 to 63 of"),
        ("nope_start", -1, "nope_start"),
        ("nope_start", 99, "query: columns 99 to"),
        ("latent", 16, r"norm: \[20\], expected \[16\]"),
        ("value", 9, "weights of the heads"),
        ("heads", 2, "weights of the heads"),
    ],
)
def test_what_does_not_fit_the_attributes_is_refused(
    attribute: str, value: int, message: str
) -> None:
    rng = np.random.default_rng(2)
    layer = Layer.random(rng, SHAPE, "float32")
    tokens, batch = pack([Text.random(rng, SHAPE, 5, [0])], [(0, 5)])
    cache = np.zeros((16, SHAPE.width), np.float32)
    with pytest.raises(Exception, match=message):
        session(layer, "float32", **{attribute: value}).run(
            None, {**feeds(tokens, batch), "cache": cache}
        )


def test_a_batch_that_does_not_fit_is_an_error_of_the_run() -> None:
    rng = np.random.default_rng(3)
    layer = Layer.random(rng, SHAPE, "float32")
    run = session(layer, "float32")
    tokens, batch = pack([Text.random(rng, SHAPE, 5, [1])], [(0, 5)])
    cache = np.zeros((16, SHAPE.width), np.float32)
    with pytest.raises(Exception, match=r"block_table\[0, 0\] is 1; the cache has 1 blocks"):
        run.run(None, {**feeds(tokens, batch), "cache": cache})
