"""Readers that are not ours load what is written: transformers and compressed-tensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.export.targets.checkpoints.conftest import Quantized
from tests.reference import NumpyReference
from tests.reference.quantized import QuantizedWeights
from trtcoder.export.parity.logits import kl_divergence

TOKENS = [5, 300, 17, 44, 291, 8, 101, 5, 77, 350, 12, 6]


def load(folder: Path, dtype: torch.dtype) -> Any:
    """Return the model as transformers reads it, every weight of it filled."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, attn_implementation="eager"
        )
    model, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


def parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a loaded model's tensors under the names that checkpoints have."""
    for name, value in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            for index, both in enumerate(value):
                for role, part in zip(("gate", "up"), both.chunk(2), strict=True):
                    prefix = name.removesuffix("gate_up_proj")
                    yield f"{prefix}{index}.{role}_proj.weight", part
        elif name.endswith("experts.down_proj"):
            for index, part in enumerate(value):
                yield f"{name.removesuffix('down_proj')}{index}.down_proj.weight", part
        elif name.endswith(".weight"):
            yield name, value


def check_weights(model: Any, folder: Path, dtype: torch.dtype) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    weights, seen = QuantizedWeights(folder), set()
    for name, value in parameters(model):
        wanted = torch.from_numpy(weights[name]).to(torch.float32).to(dtype)
        assert torch.equal(value.to(dtype), wanted), name
        seen.add(name.removesuffix(".weight"))
    assert seen == {name.rpartition(".")[0] for name in index}


def logits(model: Any) -> NDArray[np.float64]:
    """Return what the weights as they were loaded give, computed in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    with torch.inference_mode():
        found: NDArray[np.float64] = model(torch.tensor([TOKENS])).logits[0].double().numpy()
    return found


@pytest.mark.parametrize("kind", ["lite", "236b"])
def test_transformers_reads_float8_blocks_bit_for_bit(quantized: Quantized, kind: str) -> None:
    pytest.importorskip("accelerate")
    folder = quantized(kind, "fp8-block")
    model = load(folder, torch.float32)
    check_weights(model, folder, torch.float32)
    wanted = NumpyReference(folder, QuantizedWeights(folder)).run(TOKENS).logits
    np.testing.assert_allclose(logits(model), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["lite", "236b"])
@pytest.mark.parametrize("form", ["int4-128", "int4-64-zp", "int4-32"])
def test_compressed_tensors_unpacks_what_we_packed(
    quantized: Quantized, kind: str, form: str
) -> None:
    pytest.importorskip("compressed_tensors")
    assert check_unpacking(quantized(kind, form)) > 25


@pytest.mark.parametrize("kind", ["lite", "236b"])
@pytest.mark.parametrize("form", ["int4-128", "int4-32"])
def test_transformers_reads_packed_int4(quantized: Quantized, kind: str, form: str) -> None:
    pytest.importorskip("compressed_tensors")
    folder = quantized(kind, form)
    model = load(folder, torch.bfloat16)
    with torch.no_grad():
        model(torch.tensor([TOKENS]))  # linear layers are unpacked when they are first run
    # The weights are computed in bfloat16, from a scale in bfloat16.
    check_weights(model, folder, torch.bfloat16)
    found = logits(model)
    wanted = NumpyReference(folder, QuantizedWeights(folder)).run(TOKENS).logits
    assert kl_divergence(wanted, found).mean() < 1e-4


def check_unpacking(folder: Path) -> int:
    """Let compressed-tensors unpack every module, and compare; return how many there are."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(settings).config_groups["group_0"]
    compressor: Any = BaseCompressor.get_value_from_registry("pack-quantized")
    weights, tensors = QuantizedWeights(folder), raw_tensors(folder)
    packed = [name.removesuffix(".weight_packed") for name in tensors if "packed" in name]
    for module in packed:
        mine = {
            name.rpartition(".")[2]: value
            for name, value in tensors.items()
            if name.rpartition(".")[0] == module
        }
        # In float32, so that nothing is rounded but by us.
        mine["weight_scale"] = mine["weight_scale"].float()
        found = compressor.decompress(mine, scheme)["weight"]
        assert torch.equal(found, torch.from_numpy(weights[f"{module}.weight"]).float()), module
    return len(packed)


def raw_tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found
