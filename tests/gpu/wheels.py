"""Wheels that are brought along, whole or in pieces, and the folder that they are installed to."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

# A machine may take files up to some size only.
PIECE = 48 << 20


def cut(wheel: Path) -> list[Path]:
    """Cut a large wheel into ``WHEEL.part000`` and so on, with its sha256 beside; remove it."""
    data = wheel.read_bytes()
    if len(data) <= PIECE:
        return [wheel]
    pieces = []
    for number, start in enumerate(range(0, len(data), PIECE)):
        pieces.append(wheel.with_name(f"{wheel.name}.part{number:03d}"))
        pieces[-1].write_bytes(data[start : start + PIECE])
    wheel.with_name(f"{wheel.name}.sha256").write_text(hashlib.sha256(data).hexdigest())
    wheel.unlink()
    return pieces


def join(folder: Path, target: Path) -> list[Path]:
    """Return all wheels of ``folder``, those in pieces joined in ``target``.

    Raises:
        ValueError: a piece is missing or damaged.
    """
    target.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("*.whl"))
    for digest in sorted(folder.glob("*.whl.sha256")):
        name = digest.name.removesuffix(".sha256")
        with (target / name).open("wb") as whole:
            for piece in sorted(folder.glob(f"{name}.part*")):
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        with (target / name).open("rb") as whole:
            if hashlib.file_digest(whole, "sha256").hexdigest() != digest.read_text().strip():
                raise ValueError(f"{folder / name}: a piece is missing or damaged; bring all again")
        found.append(target / name)
    return found


def install(folder: Path, work: Path) -> Path:
    """Install all wheels of a folder, beside what Python has; return where they are.

    No network is asked, and nothing that is installed is changed.

    Raises:
        ValueError: a piece is missing or damaged.
        subprocess.CalledProcessError: a wheel is not for this Python.
    """
    site, done = work / "site", work / "site" / ".installed"
    if done.exists():
        return site
    shutil.rmtree(site, ignore_errors=True)
    wheels = join(folder, work / "wheels")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(site), *map(str, wheels)], check=True)
    done.touch()
    return site
