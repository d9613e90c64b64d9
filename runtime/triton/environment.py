"""The Python packages of a model, in a folder that Triton runs its Python with.

Triton takes an execution environment for something with ``bin/activate``. Ours holds packages and
no interpreter: that is Triton's own, and must be of the version that the packages are for.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from trtcoder.errors import DependencyError

FOLDER = "environment"
# As config.pbtxt writes it: Triton knows where the model's folder is.
PATH = f"$$TRITON_MODEL_DIRECTORY/{FOLDER}"
# What a model imports; pyproject.toml has them in the base and in the extras cpu and triton.
MODULES = ("click", "jinja2", "llguidance", "numpy", "onnxruntime", "rich", "tokenizers", "yaml")
# Triton's Python passes over PYTHONPATH and looks for its packages beside the first `python3` of
# PATH. A virtual environment names the place of its interpreter, which is known only there.
_ACTIVATE = """\
# Sourced by Triton before it starts the model's Python: makes a virtual environment of the
# packages beside this folder, for the interpreter that is found here.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
base="$(readlink -f "$(command -v python3)")"
made="$(mktemp -d "${TMPDIR:-/tmp}/trtcoder-environment.XXXXXX")"
mkdir -p "$made/bin" "$made/lib/python@VERSION@"
ln -s "$base" "$made/bin/python3"
ln -s "$here/packages" "$made/lib/python@VERSION@/site-packages"
echo "home = $(dirname "$base")" > "$made/pyvenv.cfg"
export PATH="$made/bin:$PATH"
"""


def check() -> None:
    """Raise DependencyError unless all that a model imports is installed here."""
    known = metadata.packages_distributions()
    missing = [name for name in MODULES if name not in known]
    if missing:
        raise DependencyError(
            f"{', '.join(missing)}: not installed here, and --environment packs what is; "
            "pip install 'trtcoder[cpu,triton]'"
        )


def pack(folder: Path) -> int:
    """Copy the packages of this Python into ``folder``; return their bytes.

    Raises:
        DependencyError: one is not installed.
        OSError: the system refuses.
    """
    check()
    packages = folder / "packages"
    packages.mkdir(parents=True)
    known = metadata.packages_distributions()
    roots = sorted({known[module][0] for module in MODULES})
    for name in _closure(roots):
        for file in metadata.distribution(name).files or ():
            source = Path(str(file.locate()))
            # Programs and manuals lie outside of the packages' folder.
            if ".." not in file.parts and source.is_file() and source.suffix != ".pyc":
                _copy(source, packages / file)
    ours = Path(__file__).parents[2]
    for directory, folders, files in os.walk(ours, followlinks=True):
        folders[:] = [each for each in folders if each != "__pycache__"]
        for name in files:
            source = Path(directory, name)
            _copy(source, packages / "trtcoder" / source.relative_to(ours))
    activate = folder / "bin" / "activate"
    activate.parent.mkdir()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    activate.write_text(_ACTIVATE.replace("@VERSION@", version))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _closure(roots: Iterable[str]) -> list[str]:
    """Return distributions and what they need, as far as it is installed."""
    found: dict[str, None] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            requires = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:  # of another platform or Python
            continue
        found[key] = None
        for each in requires:
            requirement, _, marker = each.partition(";")
            if "extra" not in marker:
                waiting.append(re.split(r"[^\w.-]", requirement.strip())[0])
    return sorted(found)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
