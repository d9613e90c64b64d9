"""What is stored stands for the checkpoint's values, as near as its form allows."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.export.targets.checkpoints.conftest import Quantized, Source
from tests.quantized_checkpoints import FORMS, build
from tests.reference import NumpyReference
from tests.reference.quantized import QuantizedWeights, float4, float8
from tests.reference.weights import Float64, Weights
from trtcoder.export.targets.checkpoints.probe import CheckpointProbe
from trtcoder.export.targets.checkpoints.twin import Twin


def linear(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith("_proj.weight")]


def names(folder: Path) -> list[str]:
    return list(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"])


@pytest.mark.parametrize("kind", ["lite", "236b"])
@pytest.mark.parametrize("form", FORMS)
def test_values_are_the_nearest_of_their_grid_and_what_is_excluded_is_exact(
    source: Source, quantized: Quantized, kind: str, form: str
) -> None:
    folder = quantized(kind, form)
    wanted, found, twin = Weights(source(kind)), QuantizedWeights(folder), Twin.open(folder)
    kept = 0
    for name in names(source(kind)):
        exact, stored = wanted[name], found[name]
        np.testing.assert_array_equal(twin.read(name), stored.astype(np.float32), err_msg=name)
        module = name.removesuffix(".weight")
        if not twin.is_quantized(module):
            np.testing.assert_array_equal(stored, exact, err_msg=name)
            kept += 1
            continue
        error = np.abs(stored - exact)
        if form == "nvfp4":
            assert (error <= half_steps(found, module, np.abs(exact)) * 1.001).all(), name
        elif form.startswith("int4"):
            steps = np.abs(found.stored(module, "weight_scale"))  # type: ignore[arg-type]
            width = exact.shape[1] // steps.shape[1]
            # The far end of a grid may be a whole step off: a symmetric one goes from -8 to 7, and
            # a zero point is a whole number.
            assert (error <= 1.06 * steps.repeat(width, 1)).all(), name
        else:
            # Three bits of mantissa, and a scale at most a step of bfloat16 above the least.
            assert (
                error <= np.maximum(np.abs(exact) / 16 * 1.001, np.abs(exact).max() / 4e4)
            ).all()
    assert kept > len(wanted._places) / 10


def half_steps(weights: QuantizedWeights, module: str, sizes: Float64) -> Float64:
    """Return half of what NVFP4's values are apart around magnitudes ``[N, K]``.

    A block's scale may be rounded down, so that its largest value lies a little beyond the last
    code: less than half of the last step.
    """
    scales = float8(weights.raw(f"{module}.weight_scale")).repeat(16, axis=1)
    steps = scales * float(weights.raw(f"{module}.weight_scale_2"))
    levels = sizes / steps
    return np.select([levels < 2, levels < 4], [0.25 * steps, 0.5 * steps], 1.0 * steps)


@pytest.mark.parametrize("kind", ["lite", "236b"])
@pytest.mark.parametrize("form", ["int4-32", "fp8-modelopt", "nvfp4"])
def test_what_is_certified_is_what_the_stored_values_compute(
    quantized: Quantized, kind: str, form: str
) -> None:
    folder, ids = quantized(kind, form), [5, 300, 17, 44, 291, 8]
    wanted = NumpyReference(folder, QuantizedWeights(folder)).run(ids).logits
    found = {}
    for rounds in (True, False):
        probe = CheckpointProbe(folder, rounds_activations=rounds)
        states = [probe.start(ids)]
        for layer in range(2):
            probe.run_layer(layer, states)
        (found[rounds],) = probe.logits(states)
    np.testing.assert_allclose(found[False], wanted, atol=1e-4 * np.abs(wanted).max())
    # Float8 and NVFP4 round what they multiply: int4 is certified with activations as they are.
    assert np.array_equal(found[True], found[False]) == form.startswith("int4")


# NVFP4's scales are ModelOpt's, to the bit: servers keep them in float32.
@pytest.mark.parametrize("form", [form for form in FORMS if form != "nvfp4"])
def test_scales_are_exact_in_bfloat16(quantized: Quantized, form: str) -> None:
    weights, count = Weights(quantized("lite", form)), 0
    for name in names(quantized("lite", form)):
        if "_scale" in name:
            scales = weights.raw(name)
            if weights.dtype(name) == "BF16":
                scales = scales.view(ml_dtypes.bfloat16)
            narrow = scales.astype(ml_dtypes.bfloat16).astype(np.float64)
            np.testing.assert_array_equal(narrow, scales.astype(np.float64), err_msg=name)
            if form.startswith("int4"):
                # And in float16, for servers that run in it.
                half = narrow.astype(np.float16).astype(np.float64)
                np.testing.assert_array_equal(half, narrow, err_msg=name)
            count += scales.size
    assert count > 50


@pytest.mark.parametrize(
    ("form", "scale", "count"),
    [("fp8-modelopt", "weight_scale", 10), ("nvfp4", "weight_scale_2", 9)],
)
def test_what_servers_fuse_has_one_scale(
    quantized: Quantized, form: str, scale: str, count: int
) -> None:
    folder = quantized("lite", form)
    weights, pairs = Weights(folder), 0
    for name in names(folder):
        if name.endswith(f"gate_proj.{scale}"):
            up = name.replace("gate_proj", "up_proj")
            assert weights.raw(name) == weights.raw(up)
            pairs += 1
            if ".experts." in name:
                # A layer's experts are run by one kernel, with one scale for what each stage takes.
                first = name.rpartition(".experts.")[0] + ".experts.0."
                for role in ("gate_proj", "down_proj"):
                    key = name.rpartition("gate_proj")[0] + f"{role}.input_scale"
                    assert weights.raw(key) == weights.raw(f"{first}{role}.input_scale")
    # Experts, the shared ones, and the dense layer where its widths fit.
    assert pairs == count


def test_float8_codes_are_read_as_the_format_says() -> None:
    codes = np.arange(256, dtype=np.uint8)
    finite = (codes & 127) != 127
    wanted = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(float8(codes)[finite], wanted[finite])


def test_float4_codes_are_read_as_the_format_says() -> None:
    codes = np.arange(16, dtype=np.uint8)
    wanted = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    np.testing.assert_array_equal(float4(codes), wanted)


@pytest.mark.parametrize("method", ["gptq", "awq", "clip"])
def test_calibrated_values_lose_less_on_the_text_and_only_what_scaling_needs_changes(
    source: Source, quantized: Quantized, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "out"
    printed = build(source("236b"), out, *FORMS["int4-64-zp"], "--method", method, "--no-gate")
    assert printed["parity"]["calibration"]["method"] == method
    plain = json.loads((quantized("236b", "int4-64-zp") / "parity.json").read_text())
    # Clipping lessens each matmul's own error, which on random weights may add up to more.
    most = 1.5 if method == "clip" else 1.0
    assert printed["parity"]["logits"]["kl_mean"] < most * plain["logits"]["kl_mean"]
    wanted, found = Weights(source("236b")), QuantizedWeights(out)
    changed = {
        name
        for name in names(source("236b"))
        if not Twin.open(out).is_quantized(name.removesuffix(".weight"))
        and not np.array_equal(wanted[name], found[name])
    }
    if method != "awq":
        assert not changed
        return
    # Channels that are scaled up in a matrix are scaled down in what makes them, and in all that
    # multiplies them.
    assert {name.split(".", 3)[-1] for name in changed} <= {
        "input_layernorm.weight", "post_attention_layernorm.weight", "mlp.gate.weight",
        "self_attn.q_a_layernorm.weight", "self_attn.kv_b_proj.weight", "self_attn.q_a_proj.weight",
        "self_attn.kv_a_proj_with_mqa.weight",
    }  # fmt: skip
    assert changed
