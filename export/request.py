"""What is asked of a build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtcoder.calib.text.calibration import CalibrationText, load_calibration
from trtcoder.calib.text.examples import read_records
from trtcoder.calib.text.heldout import Part
from trtcoder.errors import RequestError
from trtcoder.export.recipe import Recipe
from trtcoder.export.targets.registry import DEFAULT
from trtcoder.prompting.source import Prompting


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What is asked of a build.

    Attributes:
        recipe: how each class of tensors is stored.
        method: what chooses the stored values, one of `calib.quantizers.calibrated.METHODS`.
        calibration: a folder of source files or a file of JSON lines; the built-in set if None.
        calibration_tokens: how much of it is used.
        minimum: calibration tokens that an expert needs.
        seed: shuffles and cuts the calibration text.
        text: held-out text as JSON lines; the built-in set if None.
        tokens: how much of it is compared.
        part: the half of the held-out text that is compared; all of it if None.
        max_kl: a limit for the mean KL in nats, beside the precision's own gates.
        gated: whether an engine that misses a gate is thrown away; one whose values are not finite
            always is.
        target: the kind of engine, one of `export.targets.registry.TARGETS`.
    """

    recipe: Recipe
    method: str = "rtn"
    calibration: Path | None = None
    calibration_tokens: int = 16384
    minimum: int = 32
    seed: int = 0
    text: Path | None = None
    tokens: int = 2048
    max_kl: float | None = None
    gated: bool = True
    target: str = DEFAULT
    part: Part | None = None

    def check_text(self) -> None:
        """Read the text that judges and the text that calibrates, whatever the model.

        Raises:
            RequestError: a file is missing, malformed or empty.
        """
        for path in (self.text, self.calibration):
            if path is not None and not path.is_dir() and not read_records(path):
                raise RequestError(f"{path}: holds no text; see `trtcoder verify --help`")
        if self.text is not None and self.text.is_dir():
            raise RequestError(f"{self.text}: is a folder; held-out text is a file of JSON lines")

    def calibration_text(self, prompting: Prompting) -> CalibrationText:
        """Return the text that calibrates, as a checkpoint's tokenizer and templates have it.

        Raises:
            RequestError: a file is missing, malformed or empty.
        """
        return load_calibration(
            prompting.prompts(), self.calibration_tokens, self.calibration, self.seed, self.text
        )
