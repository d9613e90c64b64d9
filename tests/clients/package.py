"""What a client is installed from, and where."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from trtcoder.testing.user_cache import user_cache

CACHE = user_cache()


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned package in a folder of its own: a virtual environment, or a prefix of npm.

    Attributes:
        kind: the registry that it is from.
        name, version: of the package.
        also: what it is installed together with.
        alone: without what it depends on, where only a file in it is wanted.
        room: the folder of the cache that it is in.
        without: packages that it brings and that are removed again.
    """

    kind: Literal["pip", "npm"]
    name: str
    version: str
    also: tuple[str, ...] = ()
    alone: bool = False
    room: str = "clients"
    without: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it is installed."""
        plain = self.name.split("[")[0].replace("@", "").replace("/", "-")
        return CACHE / self.room / f"{plain}-{self.version}"

    def program(self, name: str) -> Path:
        """Return the path of a program that it brings."""
        bin_ = "bin" if self.kind == "pip" else "node_modules/.bin"
        return self.folder / bin_ / name

    @property
    def is_installed(self) -> bool:
        """Whether it was installed to its end."""
        return self._done.exists()

    @property
    def _done(self) -> Path:
        return self.folder / ".installed"

    def install(self) -> None:
        """Install it, in place of what is there.

        Raises:
            subprocess.CalledProcessError: it cannot be installed.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.kind == "pip":
            subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
            command = [
                str(self.program("pip")),
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
            command += ["--no-deps"] if self.alone else []
            command.append(f"{self.name}=={self.version}")
        else:
            command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix"]
            command += [str(self.folder), f"{self.name}@{self.version}"]
        subprocess.run([*command, *self.also], check=True)
        if self.without:
            remove = [str(self.program("pip")), "uninstall", "--quiet", "--yes", *self.without]
            subprocess.run(remove, check=True)
        self._done.touch()


def install_missing(packages: Iterable[Package | None]) -> None:
    """Install what is not there yet, and say so."""
    for package in packages:
        if package is not None and not package.is_installed:
            click.echo(f"installing {package.name} {package.version}", err=True)
            package.install()
