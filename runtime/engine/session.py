"""Opens an engine's graph in ONNX Runtime and holds it against its manifest."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.linked_data import give_linked_data
from trtcoder.bundle.onnx import CUDA
from trtcoder.errors import DependencyError, EngineError, TrtcoderError
from trtcoder.plugins.choice import Choice, choose
from trtcoder.runtime.engine import cuda_device

if TYPE_CHECKING:
    import onnxruntime

INDEX_INPUTS = ("input_ids", "positions", "slots", "sequences", "block_table", "sample_rows")
LOGITS = "logits"
# What only graphs for CUDA take beside them, int32.
PAGED_INPUTS = ("query_starts", "past_lengths", "attention_metadata")


def open_session(bundle: Bundle, threads: int) -> tuple[onnxruntime.InferenceSession, Choice]:
    """Return a session over one of the bundle's graphs, and what runs it.

    Our kernels read the weights from the mapped file; of others ONNX Runtime may make copies.

    Raises:
        DependencyError: onnxruntime is missing, or two packages of it overwrite each other.
        EngineError: another release or provider is needed, or the graph is refused.
    """
    ort = _import_onnxruntime()
    _check_release(bundle, ort)
    choice = choose(bundle.manifest.onnx_parts)
    graph = bundle.path(choice.file)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Memory patterns are planned for one set of shapes; here the shapes change with the context.
    options.enable_mem_pattern = False
    # Constants are dequantized once, when the graph is loaded, not in each run.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 4  # errors are raised; printing them as well would be twice
    try:
        choice.configure(options, threads)
        providers: list[Any] = [bundle.manifest.requires.provider]
        if bundle.manifest.requires.provider == CUDA:
            providers = cuda_device.configure(ort, options)
        linked = give_linked_data(options, bundle.folder, bundle.manifest.files, graph)
        session = ort.InferenceSession(str(graph), options, providers=providers)
    except TrtcoderError:
        raise
    except Exception as error:  # onnxruntime's classes share no public base
        raise EngineError(f"{graph}: ONNX Runtime cannot load the graph: {error}") from error
    del linked  # which the open session no longer needs
    _check_contract(bundle, graph, session)
    return session, choice


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime as ort

        ort.InferenceSession  # noqa: B018 - a half-overwritten install imports without it
    except (ImportError, AttributeError) as error:
        raise DependencyError(
            _two_packages()
            or f"onnxruntime cannot be imported ({error}); install it with "
            "`pip install 'trtcoder[cpu]'`, or with `pip install 'trtcoder[cuda]'` for NVIDIA "
            "GPUs; the two exclude each other"
        ) from error
    return ort


def _two_packages() -> str | None:
    """Return what to do when both packages that provide the module are installed."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        installed.append(name)
    if len(installed) < 2:
        return None
    return (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
        "`pip uninstall onnxruntime onnxruntime-gpu`, then install 'trtcoder[cpu]' or "
        "'trtcoder[cuda]'"
    )


def _check_release(bundle: Bundle, ort: Any) -> None:
    requires = bundle.manifest.requires
    if bundle.manifest.target != "onnx":
        raise EngineError(
            f"{bundle.folder}: an engine for {bundle.manifest.target}, which trtcoder does not "
            "run itself; build one with `--target onnx`"
        )
    found = str(ort.__version__)
    if found.split(".")[:2] != requires.onnxruntime.split(".")[:2]:
        raise EngineError(
            f"{bundle.folder}: built for onnxruntime {requires.onnxruntime}, found {found}; "
            f"`pip install '{requires.package}=={requires.onnxruntime}.*'`, or build the engine "
            "again"
        )
    if requires.provider not in ort.get_available_providers():
        problem = _two_packages()
        if problem is not None:
            raise DependencyError(problem)
        remedy = (
            "; `pip uninstall onnxruntime`, then `pip install 'trtcoder[cuda]'`: both packages "
            "provide the module"
            if requires.provider == CUDA
            else ""
        )
        raise EngineError(
            f"{bundle.folder}: needs {requires.provider}, and this onnxruntime has "
            f"{', '.join(ort.get_available_providers())}{remedy}"
        )


def _check_contract(bundle: Bundle, path: Path, session: onnxruntime.InferenceSession) -> None:
    """Raise EngineError unless the graph's inputs and outputs are the manifest's."""
    graph = bundle.manifest.graph
    inputs = {value.name: (value.type, value.shape[1:]) for value in session.get_inputs()}
    outputs = {value.name: (value.type, value.shape[1:]) for value in session.get_outputs()}
    on_cuda = bundle.manifest.requires.provider == CUDA
    row = [graph.cache_block, 1] if on_cuda else []
    caches = {cache.name: (cache.onnx_type, [*row, cache.width]) for cache in graph.caches}
    indices = dict.fromkeys(INDEX_INPUTS, "tensor(int64)")
    if on_cuda:
        indices |= dict.fromkeys(PAGED_INPUTS, "tensor(int32)")
    expected_outputs = {
        LOGITS: ("tensor(float)", [bundle.manifest.model.vocab_size]),
        **{f"{name}.out": kind for name, kind in caches.items()},
    }
    problems = []
    if inputs.keys() != indices.keys() | caches.keys():
        different = inputs.keys() ^ (indices.keys() | caches.keys())
        problems.append(f"inputs differ in {_names(different)}")
    if outputs.keys() != expected_outputs.keys():
        problems.append(f"outputs differ in {_names(outputs.keys() ^ expected_outputs.keys())}")
    for name, kind in indices.items():
        if name in inputs and inputs[name][0] != kind:
            problems.append(f"{name} is {inputs[name][0]}, expected {kind}")
    for found, expected in ((inputs, caches), (outputs, expected_outputs)):
        for name in sorted(found.keys() & expected.keys()):
            wanted = expected[name]
            # A scatter's output may have lost its width to shape inference.
            if found[name][0] != wanted[0] or not _agree(found[name][1], wanted[1]):
                problems.append(f"{name} is {found[name]}, expected {wanted}")
    if problems:
        raise EngineError(
            f"{path}: the graph is not the one that the manifest describes: "
            f"{'; '.join(problems)}; build the engine again"
        )


def _agree(found: list[int | str | None], expected: list[int]) -> bool:
    return len(found) == len(expected) and all(
        not isinstance(size, int) or size == want
        for size, want in zip(found, expected, strict=True)
    )


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names))
