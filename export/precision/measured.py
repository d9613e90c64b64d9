"""What each class loses by each scheme: measured once, and kept for a build that is interrupted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtcoder import __version__
from trtcoder.bundle.durable import replace_file
from trtcoder.calib.budget import Option
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.calib.text.calibration import CalibrationText
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import BuildError
from trtcoder.export.precision.sensitivity import measure
from trtcoder.export.recipe import SCHEMED
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.progress import step_progress
from trtcoder.typed_json import MismatchError, read

CANDIDATES = tuple(
    Scheme(bits, size, symmetric)
    for bits, sizes in ((4, (128, 64, 32)), (8, (128, 32)))
    for size in sizes
    for symmetric in (True, False)
)


@dataclass(frozen=True, slots=True)
class _Option:
    bits: int
    block_size: int
    symmetric: bool
    bytes: int
    kl: float


@dataclass(frozen=True, slots=True)
class _Saved:
    key: dict[str, object]
    options: dict[str, tuple[_Option, ...]]


def measured_options(
    source: Checkpoint,
    weights: WeightPlan,
    text: CalibrationText,
    path: Path,
    say: Callable[[str], None],
) -> dict[str, list[Option]]:
    """Measure, or read what an interrupted build has measured, and keep it in the file ``path``.

    Args:
        source: the checkpoint.
        weights: any plan of it; says which matrices are of which class.
        text: what it is measured on.
        path: a file of JSON.
        say: told when nothing needs to be measured.
    """
    key: dict[str, object] = {
        "trtcoder": __version__,
        "checkpoint": source.identity(),
        "tensors": source.layout_digest(),
        "text": text.digest,
        "schemes": [str(scheme) for scheme in CANDIDATES],
    }
    known = read_options(path, key)
    if known:
        say("using the sensitivities that the interrupted build has measured")
        return known
    layers = source.config.num_hidden_layers
    with step_progress("measuring what each class loses", layers + 1) as advance:
        options = measure(source, weights.matrices, text.sequences, candidates(source), advance)
    saved = _Saved(key, {kind: tuple(map(_saved, found)) for kind, found in options.items()})
    replace_file(path, json.dumps(dataclasses.asdict(saved)))
    return options


def read_options(path: Path, key: dict[str, object]) -> dict[str, list[Option]]:
    """Return what is in the file; nothing if it is of another key, or malformed."""
    try:
        saved = read(_Saved, json.loads(path.read_text(encoding="utf-8")))
        if saved.key != json.loads(json.dumps(key)):
            return {}
        return {
            kind: [Option(Scheme(o.bits, o.block_size, o.symmetric), o.bytes, o.kl) for o in found]
            for kind, found in saved.options.items()
        }
    except (OSError, ValueError, RecursionError, MismatchError, BuildError):
        return {}


def _saved(option: Option) -> _Option:
    scheme = option.scheme
    return _Option(scheme.bits, scheme.block_size, scheme.symmetric, option.nbytes, option.kl)


def candidates(source: Checkpoint) -> dict[str, list[Scheme]]:
    """Return the schemes that each class may get."""
    return {kind: _fitting(source, kind) for kind in SCHEMED}


def _fitting(source: Checkpoint, kind: str) -> list[Scheme]:
    """Return the candidates whose blocks divide the width where the kernel asks for it."""
    hidden = source.config.hidden_size
    if kind not in ("embedding", "experts_gate_up"):
        return list(CANDIDATES)
    return [scheme for scheme in CANDIDATES if hidden % scheme.block_size == 0]
