"""A real Triton server, and the Python that runs its models, in folders of their own.

NVIDIA's wheel of PyTriton carries the server, the Python backend and a stub for each Python. The
backend of that release was compiled before NumPy 2, so the models' Python has NumPy 1.26.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from trtcoder.testing.user_cache import user_cache

CACHE = user_cache() / "triton"
ROOT = Path(__file__).parents[4]
SERVER = ("nvidia-pytriton==0.7.0", "tritonclient[http,grpc]==2.51.0")
MODELS = (
    "numpy==1.26.4",
    "onnxruntime>=1.31,<1.32",
    "click>=8.1",
    "jinja2>=3.1.6",
    "rich>=13",
    "tokenizers>=0.21",
    "llguidance>=1.9,<2",
    "pyyaml>=6",
)


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with pinned packages."""

    name: str
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return CACHE / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        """Where its packages are."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    @property
    def is_installed(self) -> bool:
        """Whether these packages were installed to their end."""
        done = self.folder / ".installed"
        return done.exists() and done.read_text() == "\n".join(self.packages)

    def install(self) -> None:
        """Install it, in place of what is there.

        Raises:
            subprocess.CalledProcessError: it cannot be installed.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*map(str, pip), *self.packages], check=True)
        (self.folder / ".installed").write_text("\n".join(self.packages))


SERVER_ENVIRONMENT = Environment("server-0.7.0", SERVER)
MODEL_ENVIRONMENT = Environment("models", MODELS)


def install() -> None:
    """Install what is not there yet."""
    for environment in (SERVER_ENVIRONMENT, MODEL_ENVIRONMENT):
        if not environment.is_installed:
            print(f"installing {environment.name}", file=sys.stderr)
            environment.install()
    _link_backend()


def server_command() -> list[str]:
    """Return the server and the folders that every start of it names."""
    triton = SERVER_ENVIRONMENT.site / "pytriton" / "tritonserver"
    return [
        str(triton / "bin" / "tritonserver"),
        "--backend-directory", str(CACHE / "backends"),
        "--cache-directory", str(triton / "caches"),
        "--allow-gpu-metrics", "false",
        # A machine that does other things starts a Python slowly.
        "--backend-config", "python,stub-timeout-seconds=600",
    ]  # fmt: skip


def server_environment(python: Path) -> dict[str, str]:
    """Return a server's environment, in which the folder ``python`` has the models' Python."""
    return {
        "LD_LIBRARY_PATH": str(SERVER_ENVIRONMENT.site / "nvidia_pytriton.libs"),
        "HOME": str(Path.home()),
        "PATH": os.pathsep.join([str(python), "/usr/local/bin", "/usr/bin", "/bin"]),
    }


def models_python(work: Path, packages: Path = MODEL_ENVIRONMENT.site) -> Path:
    """Make a Python of ``packages`` and this source tree; return the folder with it.

    The interpreter in Triton's processes passes over PYTHONPATH, and the packages' own environment
    serves other trees too.
    """
    folder = work / "python"
    shutil.rmtree(folder, ignore_errors=True)
    site = folder / MODEL_ENVIRONMENT.site.relative_to(MODEL_ENVIRONMENT.folder)
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    home = Path(sys.executable).resolve().parent
    (folder / "pyvenv.cfg").write_text(f"home = {home}\n")
    (site / "trees.pth").write_text(f"{ROOT / 'src'}\n{packages}\n")
    return folder / "bin"


def _link_backend() -> None:
    """Lay the Python backend out as the server looks for it."""
    triton = SERVER_ENVIRONMENT.site / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = CACHE / "backends" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in (
        triton / "backends" / "python" / "libtriton_python.so",
        triton / "backends" / "python" / "triton_python_backend_utils.py",
        triton / "python_backend_stubs" / version / "triton_python_backend_stub",
    ):
        (folder / file.name).symlink_to(file)


if __name__ == "__main__":
    install()
