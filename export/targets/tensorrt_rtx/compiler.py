"""Compiles one plan, in a process of its own: it takes gigabytes, and gives them back with it.

    python -m trtcoder.export.targets.tensorrt_rtx.compiler PARENT < JOB

PARENT is the id of the process that waits for it. A job is one JSON object, the fields of `Job`;
what comes out is another, of `Compiled` or with a key ``error``.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtcoder.errors import BuildError, TrtcoderError
from trtcoder.tensorrt_rtx.libraries import load
from trtcoder.typed_json import read

if TYPE_CHECKING:
    import onnx

_PARENT_DEATH_SIGNAL = 1
# The dimension of the cache's rows, which the builder wants to know.
_ROWS = "rows"
# What the builder logs, each with a number of bytes behind it.
_ACTIVATIONS, _WEIGHTS = "Total Activation Memory:", "Total Weights Memory:"


@dataclass(frozen=True, slots=True)
class Job:
    """What is compiled.

    Attributes:
        graph: the ONNX file; its weights lie beside it.
        plan: the file to write.
        capabilities: compute capabilities of the GPUs that it is for.
        rows: of the cache.
        profiles: least, usual and largest size of each named dimension, for each kind of step.
        weight_streaming: whether weights may stay in the host's memory.
    """

    graph: str
    plan: str
    capabilities: tuple[int, ...]
    rows: int
    profiles: tuple[dict[str, tuple[int, int, int]], ...]
    weight_streaming: bool


@dataclass(frozen=True, slots=True)
class Compiled:
    """What it took.

    Attributes:
        seconds: to read the graph and to compile it.
        peak_rss: largest resident memory of the process, in bytes.
        activations: bytes of the GPU's memory that a step takes, for each profile.
        weights: bytes of the weights as the plan holds them.
    """

    seconds: float
    peak_rss: int
    activations: tuple[int, ...]
    weights: int


def compile_plan(job: Job) -> Compiled:
    """Compile a plan and write it.

    Raises:
        BuildError: TensorRT-RTX refuses the graph.
        DependencyError: it is not installed.
    """
    import onnx

    started = time.monotonic()
    rtx = load()
    logger = _logger(rtx)
    model = onnx.load(job.graph, load_external_data=False)
    _set_rows(model, job.rows)
    builder = rtx.Builder(logger)
    flags = 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = rtx.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString(), job.graph):
        found = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise _refused(job, found or logger.errors)
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(job.capabilities)
    for index, each in enumerate(job.capabilities):
        config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{each}"), index)
    if job.weight_streaming:
        config.set_flag(rtx.BuilderFlag.WEIGHT_STREAMING)
    for sizes in job.profiles:
        profile = builder.create_optimization_profile()
        for value in model.graph.input:
            dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            profile.set_shape(
                value.name,
                *(
                    tuple(sizes[dim][place] if isinstance(dim, str) else dim for dim in dims)
                    for place in range(3)
                ),
            )
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(job, logger.errors)
    with Path(job.plan).open("wb") as file:
        file.write(plan)
        file.flush()
        os.fsync(file.fileno())
    return Compiled(
        time.monotonic() - started,
        _peak_rss(),
        tuple(logger.bytes_of(_ACTIVATIONS)),
        sum(logger.bytes_of(_WEIGHTS)),
    )


def _peak_rss() -> int:
    # Not `getrusage`: its figure starts at the size of the process that forked this one.
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _set_rows(model: onnx.ModelProto, rows: int) -> None:
    """Give the caches their length: TensorRT-RTX updates them in place only where it is fixed."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == _ROWS:
                dim.dim_value = rows
    # They speak of the rows too, and are only hints.
    del model.graph.value_info[:]


def _logger(rtx: Any) -> Any:
    class Logger(rtx.ILogger):  # type: ignore[misc]
        """Keeps what went wrong, and what the builder counts."""

        def __init__(self) -> None:
            rtx.ILogger.__init__(self)
            self.errors: list[str] = []
            self._counted: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= rtx.ILogger.ERROR:
                self.errors.append(message)
            elif message.startswith((_ACTIVATIONS, _WEIGHTS)):
                self._counted.append(message)

        def bytes_of(self, what: str) -> list[int]:
            counted = [each.removeprefix(what) for each in self._counted if each.startswith(what)]
            return [int(each.split()[0]) for each in counted]

    return Logger()


def _refused(job: Job, found: list[str]) -> BuildError:
    problem = " ".join(found[0].split())[:500] if found else "it does not say why"
    return BuildError(
        f"{job.graph}: TensorRT-RTX does not compile it for "
        f"{', '.join(map(str, job.capabilities))}: {problem}"
    )


def main() -> None:
    """Do the job on standard input."""
    # A build that was killed leaves no compiler behind, which would write where the next one does.
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        # It was killed before the signal was asked for.
        os._exit(1)
    # What libraries print does not come between.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    result: dict[str, object]
    try:
        result = dataclasses.asdict(compile_plan(read(Job, json.load(sys.stdin))))
    except (TrtcoderError, OSError, MemoryError) as error:
        result = {"error": str(error) or type(error).__name__}
    print(json.dumps(result), file=out, flush=True)
    # Without a driver the libraries do not always come to an end by themselves.
    os._exit(1 if "error" in result else 0)


if __name__ == "__main__":
    main()
