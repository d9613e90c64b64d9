"""The Lite that `benchmarks.cpu` runs: an engine of ours, and GGUF files.

A checkpoint of all 27 layers would take 31 GB, and 31 more on its way to llama.cpp. So three layers
of random weights are written, one dense and two mixtures, and the mixtures take turns in the rest
of the model: every file has its full size, and every layer of it bytes of its own. Which type
llama.cpp gives each tensor of the whole model, llama-quantize says of a file without data.

Everything lies in the user's cache; an engine of another revision of the exporter is built anew.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import gguf
import numpy as np
from numpy.typing import NDArray

from benchmarks.llama_cpp import LlamaCpp, cache, obtain
from benchmarks.llama_gguf import Types, gguf_tensors, write_gguf, write_hole, writing
from benchmarks.speed import prepare
from trtcoder.bundle.writer import BundleWriter
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.export.recipe import preset
from trtcoder.export.targets.onnxruntime import DATA_FILE, OnnxRuntime
from trtcoder.export.targets.target import EnginePlan
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.model.registry import read_config
from trtcoder.prompting.source import read_prompting
from trtcoder.testing.random_checkpoint import LITE_CONFIG, write_random_checkpoint
from trtcoder.testing.user_cache import user_cache

ROOT = Path(__file__).parents[1]
# Two mixtures, since Q4_K_M stores some layers in more bits than others.
WRITTEN_LAYERS = 3


def repeated(few: Checkpoint, layers: int) -> Checkpoint:
    """Return ``few`` with the layers behind its dense ones repeated up to ``layers``."""
    config = read_config({**few.config.raw, "num_hidden_layers": layers}, "config")
    dense = DeepseekV2Config.of(few.config).first_k_dense_replace
    written = few.config.num_hidden_layers

    def source(name: str) -> str:
        found = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if not found or int(found[1]) < written:
            return name
        layer = dense + (int(found[1]) - dense) % (written - dense)
        return f"model.layers.{layer}.{found[2]}"

    tensors = {name: few.tensors[source(name)] for name in config.expected_tensors()}
    return Checkpoint(few.folder, config, tensors)


def write_layers(model: Checkpoint, few: Path, types: dict[str, str], path: Path) -> None:
    """Write ``model`` as a GGUF of the given types, with the data of ``few``, a quantized GGUF.

    A tensor takes the data of one of the same role and type; where ``few`` has none, its own
    values are quantized here, which the gguf package can for the types without K.
    """
    stored: dict[tuple[str, str], list[NDArray[np.generic]]] = {}
    for tensor in gguf.GGUFReader(few).tensors:
        role = (_role(tensor.name), tensor.tensor_type.name)
        stored.setdefault(role, []).append(tensor.data)
    with writing(model, path, lambda name: Types[types[name]]) as write:
        for number, wanted in enumerate(gguf_tensors(model)):
            kind = types[wanted.name]
            same = stored.get((_role(wanted.name), kind))
            if same:
                write(same[number % len(same)])
            else:
                write(gguf.quants.quantize(wanted.load(), Types[kind]))


def _role(name: str) -> str:
    return re.sub(r"^blk\.\d+\.", "", name)


class Models:
    """The files of a Lite of so many layers, made where they are not there."""

    def __init__(self, layers: int, folder: Path | None = None) -> None:
        """Make nothing yet."""
        self.layers = layers
        self.folder = folder or user_cache() / "lite-random"
        self.written = min(layers, WRITTEN_LAYERS)

    def checkpoint(self) -> Checkpoint:
        """Return the model, whose layers repeat."""
        folder = self._written_folder()
        if not any(folder.glob("*.safetensors")):
            shutil.rmtree(folder, ignore_errors=True)
            _say(f"writing {self.written} layers of a Lite with random weights")
            write_random_checkpoint(folder, LITE_CONFIG | {"num_hidden_layers": self.written})
        return repeated(Checkpoint.open(folder), self.layers)

    def engine(self, cache: str = "fp32") -> Path:
        """Return our engine, int4 in blocks of 32, with a cache of this type.

        Engines whose weights lie alike share one data file, so that only graphs are written anew
        for another cache, or another revision of the exporter.
        """
        if not self._written_folder().is_dir():
            self.checkpoint()
        source = repeated(Checkpoint.describe(self._written_folder()), self.layers)
        plan = OnnxRuntime().plan(source, preset("int4", cache=cache))
        weights = hashlib.sha256(repr([*plan.weights.declared.values()]).encode()).hexdigest()[:8]
        out = self.folder / f"engine-{self.layers}-{cache}-{weights}-{exporter_digest()}"
        if not out.is_dir():
            same = [*self.folder.glob(f"engine-{self.layers}-*-{weights}-*")]
            if same:
                link_engine(same[0] / DATA_FILE, plan, out)
            else:
                _say(f"building an engine of {self.layers} layers")
                prepare(out, self.checkpoint(), "int4")
            for old in self.folder.glob(f"engine-{self.layers}-{cache}-*"):
                if old != out:
                    shutil.rmtree(old)
        return out

    def gguf(self, kind: str) -> Path:
        """Return llama.cpp's file; ``kind`` is llama-quantize's."""
        out = self.folder / f"{self.layers}-{kind}.gguf"
        if not out.is_file():
            llama, model = obtain(cache()), self.checkpoint()
            few = self._few(llama, kind)
            hole = self._made(f"hole-{self.layers}.gguf", lambda path: write_hole(model, path))
            types = llama.types(hole, kind)
            hole.unlink()
            _say(f"writing {out.name}")
            self._made(out.name, lambda path: write_layers(model, few, types, path))
        return out

    def tidy(self) -> None:
        """Remove what the files were made of, but for the checkpoint's small files."""
        for path in (*self.folder.glob("few-*"), *self.folder.glob("checkpoint-*/*.safetensors")):
            path.unlink()

    def _written_folder(self) -> Path:
        return self.folder / f"checkpoint-{self.written}"

    def _few(self, llama: LlamaCpp, kind: str) -> Path:
        """Return a file with the data of every layer that was written: of fewer layers, or new."""
        made = [path for path in self.folder.glob(f"*-{kind}.gguf") if path.stem[:1].isdigit()]
        if made:
            return made[0]

        def make_plain(path: Path) -> None:
            write_gguf(Checkpoint.open(self._written_folder()), path, as_stored=True)

        plain = self._made(f"few-{self.written}.gguf", make_plain)
        _say(f"quantizing {self.written} layers as {kind}")
        return self._made(
            f"few-{self.written}-{kind}.gguf", lambda path: llama.quantize(plain, path, kind)
        )

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return a file of the folder; one that was interrupted is made anew."""
        path, partial = self.folder / name, self.folder / f".{name}.partial"
        if not path.is_file():
            make(partial)
            partial.rename(path)
        return path


def link_engine(data: Path, plan: EnginePlan, out: Path) -> None:
    """Write an engine whose weights are in a file that there is."""
    with BundleWriter(out) as writer:
        (writer.folder / data.name).hardlink_to(data)
        plan.write_rest(writer.folder)
        prompting = read_prompting(plan.checkpoint)
        writer.commit(plan.manifest(prompting, "not hashed"))


def exporter_digest() -> str:
    """Return a digest of the sources that decide what an engine's graphs are."""
    total = hashlib.sha256()
    for folder in ("export/graph", "export/weights", "export/targets", "calib/storage"):
        for path in sorted((ROOT / folder).glob("*.py")):
            total.update(path.read_bytes())
    return total.hexdigest()[:10]


def _say(what: str) -> None:
    click.echo(what, err=True)
