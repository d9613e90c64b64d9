"""Collects Python source under permissive licences and splits it by file.

Sources are CPython's standard library and the packages of `PACKAGES`, downloaded as wheels with
pip. A file goes to the held-out part when the hash of its path says so, so the split never
depends on order or on what else is there.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORK = Path(__file__).resolve().parents[1] / ".work"

# Package -> version and licence, as its metadata states it.
PACKAGES = {
    "aiohttp": ("3.14.5", "Apache-2.0"),
    "attrs": ("26.1.0", "MIT"),
    "black": ("26.10.1", "MIT"),
    "boltons": ("26.2.0", "BSD-3-Clause"),
    "bottle": ("0.13.4", "MIT"),
    "click": ("8.5.1", "BSD-3-Clause"),
    "django": ("5.2.19", "BSD-3-Clause"),
    "fastapi": ("0.165.0", "MIT"),
    "flask": ("3.1.3", "BSD-3-Clause"),
    "httpx": ("0.28.1", "BSD-3-Clause"),
    "ipython": ("9.18.1", "BSD-3-Clause"),
    "jinja2": ("3.1.6", "BSD-3-Clause"),
    "marshmallow": ("4.4.0", "MIT"),
    "more-itertools": ("11.2.1", "MIT"),
    "networkx": ("3.6.1", "BSD-3-Clause"),
    "pandas": ("3.1.1", "BSD-3-Clause"),
    "pydantic": ("2.14.4", "MIT"),
    "pytest": ("9.2.0", "MIT"),
    "requests": ("2.34.2", "Apache-2.0"),
    "rich": ("15.0.0", "MIT"),
    "scikit-learn": ("1.9.1", "BSD-3-Clause"),
    "scipy": ("1.17.1", "BSD-3-Clause"),
    "setuptools": ("84.2.1", "MIT"),
    "sqlalchemy": ("2.1.9", "MIT"),
    "starlette": ("1.10.0", "BSD-3-Clause"),
    "sympy": ("1.14.0", "BSD-3-Clause"),
    "textual": ("8.2.8", "MIT"),
    "tornado": ("6.6.1", "Apache-2.0"),
    "trio": ("0.35.0", "MIT OR Apache-2.0"),
    "werkzeug": ("3.1.9", "BSD-3-Clause"),
}
# Tests and generated tables teach a small model nothing but noise.
SKIPPED_PARTS = (
    "/test", "test_", "_test.", "/conftest", "/_vendor/", "/vendored/", "/locale/",
    "/encodings/", "/lib2to3/", "/idlelib/", "/turtledemo/", "/pydoc_data/", "/site-packages/",
    "_tables.", "unicode", "/migrations/", "/formats.py", "/lib-dynload/", "/_codes", "/data/",
)  # fmt: skip
HELD_OUT_OF_100 = 2


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: where it came from, its licence and its text."""

    path: str
    licence: str
    text: str

    @property
    def is_held_out(self) -> bool:
        """Whether the file is never trained on."""
        return int(hashlib.sha256(self.path.encode()).hexdigest(), 16) % 100 < HELD_OUT_OF_100


def collect() -> list[SourceFile]:
    """Return every usable file, each text once, in a fixed order."""
    found: dict[str, SourceFile] = {}
    for file in [*_standard_library(), *_packages()]:
        if is_usable(file):
            found.setdefault(hashlib.sha256(file.text.encode()).hexdigest(), file)
    return sorted(found.values(), key=lambda file: file.path)


def is_usable(file: SourceFile) -> bool:
    """Whether a file is ordinary, readable, modern Python."""
    path, text = f"/{file.path.lower()}", file.text
    if any(part in path for part in SKIPPED_PARTS) or not 400 <= len(text) <= 200_000:
        return False
    if "\t" in text or not text.isascii() or max(map(len, text.splitlines())) > 140:
        return False
    digits = sum(character.isdigit() for character in text)
    if digits > 0.06 * len(text):
        return False
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def _standard_library() -> Iterator[SourceFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = ".".join(map(str, sys.version_info[:3]))
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield SourceFile(f"cpython-{version}/{path.relative_to(root)}", "PSF-2.0", text)


def _packages() -> Iterator[SourceFile]:
    wheels = WORK / "wheels"
    if not wheels.is_dir():
        pinned = [f"{name}=={version}" for name, (version, _) in PACKAGES.items()]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(wheels), *pinned], check=True)
    for wheel in sorted(wheels.glob("*.whl")):
        name = "-".join(wheel.name.split("-")[:2])
        package = wheel.name.split("-")[0].lower().replace("_", "-")
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(archive.namelist()):
                if member.endswith(".py"):
                    text = archive.read(member).decode("utf-8", errors="replace")
                    yield SourceFile(f"{name}/{member}", PACKAGES[package][1], text)


def load() -> list[SourceFile]:
    """Return the corpus, from the cache when there is one."""
    cache = WORK / "corpus.jsonl"
    if not cache.is_file():
        WORK.mkdir(parents=True, exist_ok=True)
        with cache.open("w", encoding="utf-8") as out:
            for file in collect():
                out.write(json.dumps([file.path, file.licence, file.text]) + "\n")
    with cache.open(encoding="utf-8") as lines:
        return [SourceFile(*json.loads(line)) for line in lines]


if __name__ == "__main__":
    files = load()
    print(f"{len(files)} files, {sum(len(file.text) for file in files) / 1e6:.1f} MB")
