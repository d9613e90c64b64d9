"""An engine and its certificate, or a certificate alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trtcoder.bundle.certificate import FILE_NAME, Certificate
from trtcoder.bundle.folder import Bundle, describe_files
from trtcoder.bundle.manifest import Manifest
from trtcoder.bundle.scores import FILE_NAME as SCORES
from trtcoder.bundle.scores import Scores
from trtcoder.errors import EngineError
from trtcoder.refusals import reason


@dataclass(frozen=True, slots=True)
class CertifiedEngine:
    """What is reported.

    Attributes:
        name: of the engine's folder, or of the certificate's file.
        certificate: the comparison with the reference.
        manifest: the engine's; None where only the certificate was given, as a build that missed
            its gate leaves it.
        scores: that were added to the engine, if there are any.
    """

    name: str
    certificate: Certificate
    manifest: Manifest | None = None
    scores: Scores | None = None

    @classmethod
    def open(cls, path: Path) -> CertifiedEngine:
        """Read an engine folder's certificate, or a certificate's file.

        Of the engine's files only the certificate and the scores are hashed: the others are not
        read.

        Raises:
            EngineError: not an engine folder, one without a certificate, or a certificate that is
                malformed or not the engine's.
        """
        if os.path.isfile(path):  # which is False for a name that cannot be asked about
            name = path.name.removesuffix(".json").removesuffix(".parity")
            return cls(name, Certificate.load(path))
        bundle = Bundle.load(path, verify_hashes=False)
        if FILE_NAME not in bundle.manifest.files:
            raise EngineError(
                f"{path}: has no certificate ({FILE_NAME}); make one with `trtcoder verify {path} "
                "--reference CHECKPOINT --report FILE` and give that file"
            )
        certificate = Certificate.load(_unchanged(bundle, FILE_NAME))
        scores = None
        if SCORES in bundle.manifest.files:
            scores = Scores.load(_unchanged(bundle, SCORES))
        return cls(path.resolve().name, certificate, bundle.manifest, scores)

    @property
    def model(self) -> str | None:
        """The model's name."""
        return None if self.manifest is None else self.manifest.model.name

    @property
    def size(self) -> int | None:
        """Bytes of all files of the engine, without the manifest itself."""
        if self.manifest is None:
            return None
        return sum(info.bytes for info in self.manifest.files.values())


def _unchanged(bundle: Bundle, name: str) -> Path:
    """Return the path of a file of the engine that has the manifest's hash.

    Raises:
        EngineError: it has another one, or cannot be read.
    """
    file = bundle.path(name)
    try:
        found = describe_files(bundle.folder, [name])[name]
    except OSError as error:
        raise EngineError(f"{file}: cannot be read ({reason(error)})") from error
    if found != bundle.manifest.files[name]:
        raise EngineError(
            f"{file}: was changed since the engine was built or evaluated (its sha256 is not the "
            "manifest's); copy the folder again, or do that again"
        )
    return file
