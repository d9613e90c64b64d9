"""A build as it is asked for: from options to a checked request, and from that to an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtcoder.bundle.compiled import TARGET as COMPILED
from trtcoder.bundle.provenance import Goal
from trtcoder.bundle.writer import BundleWriter
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.compiling import BY_DEFAULT, Compiling
from trtcoder.export.conversion import Say
from trtcoder.export.pipeline import Built, build_engine
from trtcoder.export.precision.forecast import Forecast, forecast
from trtcoder.export.precision.mixed import build_mixed, check_goal
from trtcoder.export.recipe import RecipeOptions
from trtcoder.export.reference.registry import open_reference
from trtcoder.export.request import BuildRequest
from trtcoder.export.targets.registry import find_target
from trtcoder.prompting.source import read_prompting
from trtcoder.room import check_disk, memory_note


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What `trtcoder build` takes, under the same names and with the same defaults.

    ``weights``, ``block_size`` and ``cache`` are None for the target's default; where a limit or a
    size is all that is asked for, the weights are mixed if the target has that. ``compiling`` has
    the options of engines that are compiled.
    """

    target: str = "onnx"
    provider: str = "cpu"
    weights: str | None = None
    block_size: int | None = None
    symmetric: bool = True
    fp8_scales: str | None = None
    activations: str | None = None
    cache: str | None = None
    absorbed: str = "exact"
    accuracy_level: int = 4
    fim: bool | None = None
    method: str = "rtn"
    calibration: Path | None = None
    calibration_tokens: int = 16384
    min_expert_tokens: int = 32
    seed: int = 0
    text: Path | None = None
    tokens: int = 2048
    max_kl: float | None = None
    target_size: int | None = None
    gate: bool = True
    compiling: Compiling = BY_DEFAULT

    @property
    def precision(self) -> str:
        """The precision, chosen where none is named."""
        if self.weights is not None:
            return self.weights
        known = find_target(self.target).precisions
        searched = self.max_kl is not None or self.target_size is not None
        return "mixed" if searched and "mixed" in known else known[0]

    @property
    def goal(self) -> Goal:
        """The limit or the size that is wanted."""
        return Goal(self.max_kl, self.target_size)

    def request(self) -> BuildRequest:
        """Return the request, checked as far as it can be without the checkpoint.

        Raises:
            BuildError: options that do not go together, or an unknown name.
            RequestError: a text file is missing or malformed.
        """
        target = find_target(self.target)
        if self.compiling != BY_DEFAULT and target.name != COMPILED:
            raise BuildError(
                "compute capabilities, slots, context, chunk and weight streaming are for "
                f"--target {COMPILED}, not for {target.name}; leave them out"
            )
        if self.provider != "cpu" and target.name != "onnx":
            raise BuildError(
                f"--provider {self.provider}: is for --target onnx, not for {target.name}; leave "
                "it out"
            )
        check_goal(self.goal, self.precision)
        recipe = target.recipe(
            RecipeOptions(
                weights=self.precision,
                block_size=self.block_size,
                symmetric=self.symmetric,
                cache=self.cache,
                absorbed=self.absorbed,
                accuracy_level=self.accuracy_level,
                fp8_scales=self.fp8_scales,
                activations=self.activations,
                compiling=self.compiling,
                provider=self.provider,
            )
        )
        if self.method != "rtn" and not recipe.has_integers:
            raise BuildError(
                f"--method {self.method}: chooses integers, and --weights {recipe.weights} stores "
                "none; leave it out"
            )
        request = BuildRequest(
            recipe,
            self.method,
            self.calibration,
            self.calibration_tokens,
            self.min_expert_tokens,
            self.seed,
            self.text,
            self.tokens,
            self.max_kl,
            self.gate,
            self.target,
        )
        request.check_text()
        return request


def build(
    checkpoint: str | Path,
    out: str | Path,
    options: BuildOptions | None = None,
    *,
    force: bool = False,
    say: Say = lambda note: None,
) -> Built:
    """Convert a checkpoint into an engine in the folder ``out``, and verify it.

    >>> build("DeepSeek-Coder-V2-Lite-Instruct", "engines/lite")                # doctest: +SKIP

    Args:
        checkpoint: a folder in Hugging Face's layout.
        out: the engine's folder; it appears only if the engine passes its gate.
        options: precision, calibration, limits.
        force: replace an engine that is there.
        say: told what a user should know on the way.

    Raises:
        BuildError, CheckpointError, ConfigError, RequestError: what was asked for cannot be built.
        ParityError: the engine misses its gate.
        DependencyError: a package of the extras build, verify or cpu is missing.
    """
    options = options or BuildOptions()
    request = options.request()
    find_target(request.target).require()
    writer = BundleWriter(out, force=force, say=say)
    writer.check()
    source = Checkpoint.open(Path(checkpoint))
    # A reference that cannot judge is found before the conversion.
    open_reference(source)
    prompting = read_prompting(source, options.fim)
    for note in (*source.notes, *prompting.notes):
        say(note)
    expected = forecast(source, request, options.goal).smallest
    check_disk(writer.target, expected.engine, writer.workspace_bytes)
    warning = memory_note("converting", expected.memory)
    if warning is not None:
        say(warning)
    with writer:
        if options.precision == "mixed":
            return build_mixed(source, prompting, request, options.goal, writer, say)
        return build_engine(source, prompting, request, writer, say)


def plan_build(checkpoint: str | Path, options: BuildOptions) -> Forecast:
    """Return what a build would make and take, from config.json alone; errors as `build`."""
    request = options.request()
    return forecast(Checkpoint.describe(Path(checkpoint)), request, options.goal)
