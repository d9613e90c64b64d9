from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.plugins.kernels import Weights, library, linear
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.plugins.library import DOMAIN

LIBRARY = library()


def session(node: onnx.NodeProto, weights: Weights, **changed: Any) -> ort.InferenceSession:
    panels = weights.panels
    stored = {"codes": panels.packed, "scales": panels.scales, "zeros": panels.zero_points}
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(array, name)
            for name, array in {**stored, **changed}.items()
            if array is not None and name in node.input
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(LIBRARY.path))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def linear_node(weights: Weights, **changed: int) -> onnx.NodeProto:
    names = ["x", "codes", "scales"] + ([] if weights.scheme.symmetric else ["zeros"])
    form: dict[str, Any] = {
        "N": len(weights.rows.packed),
        "K": weights.width,
        "bits": weights.scheme.bits,
        "block": weights.scheme.block_size,
    }
    return helper.make_node("Linear", names, ["y"], domain=DOMAIN, **{**form, **changed})


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_runtime_runs_a_linear_layer(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    weights = Weights.random(rng, 50, 100, Scheme(4, 32, symmetric))
    run = session(linear_node(weights), weights)
    for tokens in (1, 7, 0, 7):
        x = rng.standard_normal((tokens, 100)).astype(np.float32)
        (found,) = run.run(None, {"x": x})
        np.testing.assert_array_equal(found, linear(LIBRARY.isa, x, weights))


def test_activations_of_another_width_are_refused() -> None:
    weights = Weights.random(np.random.default_rng(0), 50, 100, Scheme(4, 32))
    run = session(linear_node(weights), weights)
    with pytest.raises(Exception, match=r"x: \[3, 99\], expected \[3, 100\]"):
        run.run(None, {"x": np.zeros((3, 99), np.float32)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codes": np.zeros((4, 1008), np.uint8)}, r"codes: \[4, 1008\], expected \[4, 1024\]"),
        ({"scales": np.zeros((3, 64), np.float16)}, r"scales: \[3, 64\], expected \[4, 64\]"),
        ({"zeros": np.zeros((4, 16), np.uint8)}, r"zero points: \[4, 16\], expected \[4, 32\]"),
    ],
)
def test_weights_of_another_size_are_refused(changed: dict[str, Any], message: str) -> None:
    weights = Weights.random(np.random.default_rng(0), 50, 100, Scheme(4, 32, symmetric=False))
    run = session(linear_node(weights), weights, **changed)
    with pytest.raises(Exception, match=message):
        run.run(None, {"x": np.zeros((3, 100), np.float32)})


def test_a_node_without_an_attribute_is_refused() -> None:
    weights = Weights.random(np.random.default_rng(0), 50, 100, Scheme(4, 32))
    node = linear_node(weights)
    del node.attribute[:1]
    with pytest.raises(Exception, match="N"):
        session(node, weights)
