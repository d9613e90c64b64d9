"""Writes a model repository for Triton: folders, configurations, and the engine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from trtcoder.errors import RequestError
from trtcoder.refusals import explain
from trtcoder.room import check_disk, existing_parent
from trtcoder.runtime.triton import environment
from trtcoder.runtime.triton.models import WRITTEN, ModelFolder
from trtcoder.runtime.triton.settings import ENGINE

Placing = Literal["link", "copy", "symlink"]
PLACINGS: tuple[Placing, ...] = ("link", "copy", "symlink")


class Repository:
    """A folder of models that appears complete or not at all."""

    def __init__(self, target: Path, *, force: bool = False) -> None:
        """Look whether ``target`` may be written.

        Raises:
            RequestError: it exists and may not be replaced, or its parent is no folder.
        """
        self.target = Path(os.path.abspath(target))
        self._force = force
        self._check()

    def write(
        self,
        engine: Path,
        files: Mapping[str, int],
        models: Sequence[ModelFolder],
        placing: Placing = "link",
        *,
        packs: bool = False,
    ) -> dict[str, str]:
        """Write the models, with the engine in the first one; return how each file was placed.

        Args:
            engine: its folder.
            files: of it, with their bytes.
            models: of the repository.
            placing: how the engine comes into it.
            packs: each model brings the packages of its Python, once on the disk.

        Raises:
            BuildError: the disk has no room for a copy.
            DependencyError: a package that is to be packed is not installed.
            RequestError: the system refuses.
        """
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=f".{self.target.name}.", dir=self.target.parent
            ) as work:
                built = Path(work, "repository")
                for number, model in enumerate(models):
                    version = model.write(built)
                    if number == 0:
                        placed = place(engine, files, version / ENGINE, placing)
                if packs:
                    _pack(built, [model.config.name for model in models])
                built.chmod(0o755)
                self._check()
                self._move(built, Path(work, "replaced"))
        except OSError as error:
            where = self.target if error.filename is None else None
            raise RequestError(explain(error, where)) from error
        return placed

    def _move(self, built: Path, replaced: Path) -> None:
        if self.target.exists():
            os.rename(self.target, replaced)
        try:
            os.rename(built, self.target)
        except BaseException:
            if replaced.exists():
                os.rename(replaced, self.target)
            raise

    def _check(self) -> None:
        if not os.path.lexists(self.target):
            parent = existing_parent(self.target)
            if not parent.is_dir():
                raise RequestError(
                    f"{self.target}: {parent} is a file, where a folder is needed; choose another "
                    "name with --out"
                )
            return
        if not self._force:
            raise RequestError(f"{self.target}: exists; pass --force to replace it")
        if self.target.is_symlink() or not self.target.is_dir():
            raise RequestError(f"{self.target}: exists and is not a folder; choose another name")
        strange = [path.name for path in self.target.iterdir() if not _is_ours(path)]
        if strange:
            raise RequestError(
                f"{self.target}: {sorted(strange)[0]} was not written by `trtcoder triton`, and "
                "--force would remove it; move it away or choose another name"
            )


def place(engine: Path, files: Mapping[str, int], folder: Path, placing: Placing) -> dict[str, str]:
    """Put an engine's files into ``folder``; return how, by file.

    Hard links take no room and hold when the engine's own folder is removed or built anew. Where
    the file system has none, or the folder is on another one, a file is copied.

    Raises:
        BuildError: the disk has no room for a copy.
        OSError: the system refuses.
    """
    folder.mkdir()
    if placing == "copy":
        check_disk(folder, sum(files.values()))
    done: dict[str, str] = {}
    for name in files:
        # What a cache of the Hub holds is a link already.
        source, target = (engine / name).resolve(), folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        done[name] = _place_one(source, target, placing)
    return done


def _place_one(source: Path, target: Path, placing: Placing) -> str:
    if placing == "symlink":
        target.symlink_to(source)
        return "symlink"
    if placing == "link":
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            check_disk(target, source.stat().st_size)
        else:
            return "link"
    shutil.copy2(source, target)
    return "copy"


def _pack(repository: Path, models: Sequence[str]) -> None:
    first, *others = models
    packed = repository / first / environment.FOLDER
    environment.pack(packed)
    for name in others:
        shutil.copytree(packed, repository / name / environment.FOLDER, copy_function=os.link)


def _is_ours(path: Path) -> bool:
    try:
        return (path / "config.pbtxt").read_text(encoding="utf-8").startswith(f"# {WRITTEN}")
    except (OSError, UnicodeError):
        return False
