from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.plugins.experts import FeedForward, Mlp, Routing, behind
from tests.plugins.kernels import Weights, library, linear
from trtcoder.calib.storage.blocks import QuantizedMatrix
from trtcoder.calib.storage.scheme import FLOAT32, Scheme
from trtcoder.plugins.library import DOMAIN

LIBRARY = library()
Arrays = dict[str, NDArray[Any]]


def session(
    op_type: str, inputs: list[str], outputs: list[str], stored: Arrays, attributes: dict[str, Any]
) -> ort.InferenceSession:
    """A session over one node; inputs that are neither x nor stored are left out."""
    names = [name if name == "x" or name in stored else "" for name in inputs]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, outputs, domain=DOMAIN, **attributes)],
        op_type,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", "width"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [tensor(name, array) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(LIBRARY.path))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def tensor(name: str, array: NDArray[Any]) -> onnx.TensorProto:
    if array.dtype != ml_dtypes.bfloat16:
        return numpy_helper.from_array(array, name)
    return helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)


def stored(name: str, matrix: QuantizedMatrix) -> Arrays:
    is_float = not matrix.scales.size
    parts: dict[str, NDArray[Any] | None] = {
        "codes": matrix.packed.view(np.float32) if is_float else matrix.packed,
        "scales": matrix.scales,
        "zeros": matrix.zero_points,
    }
    return {
        f"{name}_{key}": part
        for key, part in parts.items()
        if part is not None and (key == "codes" or not is_float)
    }


def names(*matrices: str) -> list[str]:
    return [f"{name}_{key}" for name in matrices for key in ("codes", "scales", "zeros")]


def linear_session(
    weights: Weights, changed: Arrays | None = None, **attributes: int
) -> ort.InferenceSession:
    form = {
        "N": len(weights.rows.packed),
        "K": weights.width,
        "bits": weights.scheme.bits,
        "block": weights.block,
    }
    arrays = {**stored("w", weights.panels), **(changed or {})}
    return session("Linear", ["x", *names("w")], ["y"], arrays, {**form, **attributes})


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 32, symmetric=False), FLOAT32])
def test_the_runtime_runs_a_linear_layer(scheme: Scheme) -> None:
    rng = np.random.default_rng(0)
    weights = Weights.random(rng, 50, 100, scheme)
    run = linear_session(weights)
    for tokens in (1, 7, 0, 7):
        x = rng.standard_normal((tokens, 100)).astype(np.float32)
        (found,) = run.run(None, {"x": x})
        np.testing.assert_array_equal(found, linear(LIBRARY.isa, x, weights))


def test_activations_of_another_width_are_refused() -> None:
    run = linear_session(Weights.random(np.random.default_rng(0), 50, 100, Scheme(4, 32)))
    with pytest.raises(Exception, match=r"x: \[3, 99\], expected \[3, 100\]"):
        run.run(None, {"x": np.zeros((3, 99), np.float32)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"w_codes": np.zeros((4, 1008), np.uint8)}, r"codes: \[4, 1008\], expected \[4, 1024\]"),
        ({"w_scales": np.zeros((3, 64), np.float16)}, r"scales: \[3, 64\], expected \[4, 64\]"),
        ({"w_zeros": np.zeros((4, 16), np.uint8)}, r"points: \[4, 16\], expected \[4, 32\]"),
    ],
)
def test_weights_of_another_size_are_refused(changed: Arrays, message: str) -> None:
    weights = Weights.random(np.random.default_rng(0), 50, 100, Scheme(4, 32, symmetric=False))
    run = linear_session(weights, changed)
    with pytest.raises(Exception, match=message):
        run.run(None, {"x": np.zeros((3, 100), np.float32)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"w_codes": np.zeros((4, 1584), np.float32)}, r"\[4, 1584\], expected \[4, 1600\]"),
        ({"w_codes": np.zeros((4, 6400), np.uint8)}, "codes: expected float32"),
        ({"w_scales": np.zeros((4, 64), np.float16)}, "beside 32 bits"),
    ],
)
def test_float32_weights_of_another_form_are_refused(changed: Arrays, message: str) -> None:
    run = linear_session(Weights.random(np.random.default_rng(0), 50, 100, FLOAT32), changed)
    with pytest.raises(Exception, match=message):
        run.run(None, {"x": np.zeros((3, 100), np.float32)})


def test_codes_in_float32_are_refused() -> None:
    weights = Weights.random(np.random.default_rng(0), 50, 100, Scheme(4, 32))
    run = linear_session(weights, {"w_codes": np.zeros((4, 1024), np.float32)})
    with pytest.raises(Exception, match="codes: expected uint8"):
        run.run(None, {"x": np.zeros((3, 100), np.float32)})


@pytest.mark.parametrize("name", ["N", "K", "bits", "block"])
def test_a_node_that_lacks_an_attribute_is_refused(name: str) -> None:
    weights = Weights.random(np.random.default_rng(0), 50, 100, Scheme(4, 32))
    form = {"N": 50, "K": 100, "bits": 4, "block": 32}
    del form[name]
    with pytest.raises(Exception, match=f"attribute.*{name}"):
        session("Linear", ["x", *names("w")], ["y"], stored("w", weights.panels), form)


def mlp_form(name: str, mlp: Mlp) -> dict[str, int]:
    return {
        f"{name}_gate_up_bits": mlp.gate.scheme.bits,
        f"{name}_gate_up_block": mlp.gate.block,
        f"{name}_down_bits": mlp.down.scheme.bits,
        f"{name}_down_block": mlp.down.block,
    }


def mlp_stored(name: str, mlps: list[Mlp]) -> Arrays:
    gate_up, down = behind(mlps)
    return {**stored(f"{name}_gate_up", gate_up), **stored(f"{name}_down", down)}


@pytest.mark.parametrize(
    ("gate_up", "down"),
    [
        (Scheme(4, 32), Scheme(8, 64)),
        (Scheme(4, 32, symmetric=False), Scheme(8, 64)),
        (FLOAT32, FLOAT32),
    ],
)
def test_the_runtime_runs_a_dense_mlp(gate_up: Scheme, down: Scheme) -> None:
    rng = np.random.default_rng(0)
    mlp = Mlp.random(rng, 70, 90, gate_up, down)
    run = session(
        "Mlp",
        ["x", *names("shared_gate_up", "shared_down")],
        ["y"],
        mlp_stored("shared", [mlp]),
        {"hidden": 70, "inner": 90, **mlp_form("shared", mlp)},
    )
    for tokens in (1, 5, 0):
        x = rng.standard_normal((tokens, 70)).astype(np.float32)
        (found,) = run.run(None, {"x": x})
        np.testing.assert_array_equal(found, FeedForward([], None, mlp)(LIBRARY.isa, x)[0])


def experts_session(
    layer: FeedForward, router: NDArray[Any], changed: Arrays | None = None
) -> ort.InferenceSession:
    routing, first, shared = layer.routing, layer.experts[0], layer.shared
    assert routing is not None
    arrays = {"router": router, **mlp_stored("experts", layer.experts)}
    form: dict[str, Any] = {
        "hidden": first.gate.width,
        "inner": first.down.width,
        "experts": len(layer.experts),
        "top_k": routing.top_k,
        "groups": routing.groups,
        "top_groups": routing.top_groups,
        "normalize": int(routing.normalize),
        "scale": routing.scale,
        "shared_inner": 0,
        **mlp_form("experts", first),
    }
    if shared is not None:
        arrays |= mlp_stored("shared", [shared])
        form |= {"shared_inner": shared.down.width, **mlp_form("shared", shared)}
    matrices = ("experts_gate_up", "experts_down", "shared_gate_up", "shared_down")
    inputs = ["x", "router", *names(*matrices)]
    return session("Experts", inputs, ["y", "logits"], {**arrays, **(changed or {})}, form)


@pytest.mark.parametrize("with_shared", [True, False])
@pytest.mark.parametrize("is_bfloat", [True, False])
@pytest.mark.parametrize("floats", ["", "experts", "shared", "both"])
def test_the_runtime_runs_a_mixture_of_experts(
    with_shared: bool, is_bfloat: bool, floats: str
) -> None:
    rng = np.random.default_rng(0)
    exact = (FLOAT32, FLOAT32)
    routed, own = (Scheme(4, 32), Scheme(4, 64, symmetric=False)), (Scheme(8, 128), Scheme(4, 32))
    routed = exact if floats in ("experts", "both") else routed
    own = exact if floats in ("shared", "both") else own
    experts = [Mlp.random(rng, 70, 90, *routed) for _ in range(8)]
    shared = Mlp.random(rng, 70, 40, *own) if with_shared else None
    router = rng.standard_normal((8, 70)).astype(ml_dtypes.bfloat16)
    layer = FeedForward(experts, Routing(router.astype(np.float32), 3, 4, 2), shared)
    run = experts_session(layer, router if is_bfloat else router.astype(np.float32))
    for tokens in (1, 9, 0):
        x = rng.standard_normal((tokens, 70)).astype(np.float32)
        for found, expected in zip(run.run(None, {"x": x}), layer(LIBRARY.isa, x), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"router": np.zeros((7, 70), np.float32)}, r"router: \[7, 70\], expected \[8, 70\]"),
        ({"router": np.zeros((8, 70), np.float64)}, "expected float32 or bfloat16"),
        ({"experts_down_codes": np.zeros((5, 8), np.uint8)}, r"codes: \[5, 8\], expected \[40, "),
        ({"shared_gate_up_scales": np.zeros((1, 8), np.float16)}, r"scales: \[1, 8\]"),
    ],
)
def test_experts_of_another_size_are_refused(changed: Arrays, message: str) -> None:
    rng = np.random.default_rng(0)
    scheme = Scheme(4, 32)
    experts = [Mlp.random(rng, 70, 90, scheme, scheme) for _ in range(8)]
    router = rng.standard_normal((8, 70)).astype(np.float32)
    shared = Mlp.random(rng, 70, 40, scheme, scheme)
    run = experts_session(FeedForward(experts, Routing(router, 3), shared), router, changed)
    with pytest.raises(Exception, match=message):
        run.run(None, {"x": np.zeros((1, 70), np.float32)})
