"""Reads a Hugging Face checkpoint: safetensors, checked against the weight contract.

Nothing is read but what is asked for: `Checkpoint.read` and `Checkpoint.stored` copy rows of a
tensor out of its file, and nothing of it is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trtcoder.checkpoint.finite import first_not_finite
from trtcoder.checkpoint.shard import VIEWS, Rows, Stored, blake3
from trtcoder.checkpoint.side_files import unreadable
from trtcoder.checkpoint.tied_head import resolve_head
from trtcoder.checkpoint.weight_files import find_weights, listed
from trtcoder.cores import available_cores
from trtcoder.errors import CheckpointError
from trtcoder.model.architecture import DERIVED_SUFFIXES, ModelConfig
from trtcoder.model.registry import load_config

# What `Checkpoint.hashing` wants of the thread.
_reading = threading.local()

# config.json's names of stored types; the newer key counts where both are there.
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_DTYPE_KEYS = ("dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint; open one with `Checkpoint.open`.

    ``notes`` are what a user should know of its files.
    """

    folder: Path
    config: ModelConfig = field(repr=False)
    tensors: dict[str, Stored] = field(repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Map every shard and compare what is there with what the configuration asks for.

        Raises:
            ConfigError: config.json is missing or not supported.
            CheckpointError: a file is missing, unsafe or damaged, or tensors are missing,
                unexpected or misshapen; one error names them all.
        """
        folder = _folder(folder)
        config = load_config(folder)
        try:
            weights = find_weights(folder)
        except OSError as error:
            raise unreadable(folder, error) from error
        config, tensors, notes = resolve_head(config, weights.tensors)
        checkpoint = cls(folder, config, tensors, (*weights.notes, *notes))
        checkpoint._validate()
        return checkpoint

    @classmethod
    def describe(cls, folder: str | Path) -> Checkpoint:
        """Return a checkpoint of which only config.json is read; its tensors cannot be.

        Raises:
            ConfigError: config.json is missing or not supported.
            CheckpointError: it is not a folder.
        """
        folder = _folder(folder)
        config = load_config(folder)
        dtype = _declared_dtype(config)
        tensors = {
            name: Stored(None, dtype, shape, 0, math.prod(shape) * VIEWS[dtype].itemsize)
            for name, shape in config.expected_tensors().items()
        }
        return cls(folder, config, tensors)

    @property
    def name(self) -> str:
        """The published model's name, the one in config.json, or the folder's."""
        named = self.config.raw.get("_name_or_path")
        if self.config.published_name is None and isinstance(named, str) and Path(named).name:
            return Path(named).name
        return self.config.published_name or self.folder.resolve().name

    def names(self) -> list[str]:
        """Return the tensors' names in the model's order."""
        return list(self.config.expected_tensors())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._stored(name).shape

    def dtype(self, name: str) -> str:
        """Return a tensor's stored type: BF16, F16 or F32."""
        return self._stored(name).dtype

    @property
    def nbytes(self) -> int:
        """Stored size of all tensors, in bytes."""
        return sum(stored.nbytes for stored in self.tensors.values())

    @property
    def stored_dtype(self) -> str:
        """The stored types of the matrices, such as ``bf16``."""
        return "+".join(sorted({stored.dtype.lower() for stored in self.tensors.values()}))

    def stored(self, name: str, rows: Rows = None) -> NDArray[np.generic]:
        """Return a copy of the tensor, or of rows of it in the given order, in its stored type.

        Raises:
            CheckpointError: there is no such tensor, its file cannot be read any more, or a value
                is not finite.
        """
        stored = self._stored(name)
        found = stored.read(rows)
        self._check_finite(name, stored, found, rows)
        if name in getattr(_reading, "wanted", ()) and len(found) == stored.shape[0]:
            whole = rows is None or (isinstance(rows, slice) and rows.step in (None, 1))
            if whole:
                digest = blake3()
                digest.update(found.reshape(-1).view(np.uint8).data)
                _reading.found[name] = digest.hexdigest()
        return found

    @contextmanager
    def hashing(self, names: Sequence[str]) -> Iterator[dict[str, str]]:
        """Hash tensors as this thread reads them whole; those that it does not, at the end.

        Yields the digests by name, complete when the block is left.
        """
        digests: dict[str, str] = {}
        _reading.wanted, _reading.found = frozenset(names), digests
        try:
            yield digests
        finally:
            _reading.wanted = frozenset()
        for name in names:
            if name not in digests:
                digests[name] = self.tensor_digest(name)

    def read(self, name: str, rows: Rows = None) -> NDArray[np.float32]:
        """Return `stored` as float32."""
        return widen(self.stored(name, rows))

    def prefetch(self, name: str) -> None:
        """Ask the system to read a tensor ahead of its use."""
        self._stored(name).prefetch()

    def tensor_digest(self, name: str) -> str:
        """Return the BLAKE3 hash of a tensor's bytes."""
        return self._stored(name).digest()

    def combine(self, digests: Mapping[str, str]) -> str:
        """Return the checkpoint's digest, given that of each of its tensors.

        It is the sha256 over names, types, shapes and digests, in the order of the names, and does
        not depend on how the tensors are split into shards.
        """
        total = hashlib.sha256()
        for name in sorted(self.tensors):
            stored = self.tensors[name]
            entry = [name, stored.dtype, list(stored.shape), digests[name]]
            total.update(json.dumps(entry).encode())
        return total.hexdigest()

    def digest(self, on_tensor: Callable[[int, str], None] = lambda size, name: None) -> str:
        """Read all tensors and return `combine` of their digests.

        ``on_tensor`` is told the bytes and the name of each.
        """
        return self.combine(self._digests(self.tensors, on_tensor))

    def identity(self) -> dict[str, list[int]]:
        """Return what the system says of each open shard, by which a changed file is noticed.

        That is size, time of change, inode, and the inode's time of change, which no program can
        set back. Where nothing differs the bytes are the same; where something does, they may be
        (see `changed`): a file that is copied, linked or touched keeps them.
        """
        shards = {stored.file.path: stored.file for stored in self.tensors.values()}
        found = {path.name: os.fstat(shard.descriptor) for path, shard in shards.items()}
        return {
            name: [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
            for name, status in found.items()
        }

    def changed(
        self,
        digests: Mapping[str, str],
        on_tensor: Callable[[int, str], None] = lambda size, name: None,
    ) -> list[str]:
        """Read the tensors of ``digests``; return those whose bytes have another digest.

        ``on_tensor`` is told the bytes and the name of each.
        """
        found = self._digests(digests, on_tensor)
        return [name for name, digest in digests.items() if found[name] != digest]

    def layout_digest(self) -> str:
        """Return the sha256 over the tensors' names, stored types and shapes."""
        entries = [[name, t.dtype, *t.shape] for name, t in sorted(self.tensors.items())]
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()

    def _digests(
        self, names: Iterable[str], on_tensor: Callable[[int, str], None]
    ) -> dict[str, str]:
        names = list(names)
        digests: dict[str, str] = {}
        with ThreadPoolExecutor(available_cores()) as pool:
            for name, digest in zip(names, pool.map(self.tensor_digest, names), strict=True):
                digests[name] = digest
                on_tensor(self.tensors[name].nbytes, name)
        return digests

    def _check_finite(
        self, name: str, stored: Stored, found: NDArray[np.generic], rows: Rows
    ) -> None:
        where = first_not_finite(found, stored.dtype)
        if where is None:
            return
        value = float(widen(found[where].reshape(1))[0])
        if where and rows is not None:
            leading = np.arange(stored.shape[0])
            where = (int(leading[rows][where[0]]), *where[1:])
        raise CheckpointError(
            f"{stored.file.path}: {name}{list(where)} is {value}, and weights must be finite; "
            "download the checkpoint again, or ask who trained it"
        )

    def _stored(self, name: str) -> Stored:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.folder}: has no tensor {name}") from None

    def _validate(self) -> None:
        expected = self.config.expected_tensors()
        missing = [name for name in expected if name not in self.tensors]
        unexpected = [
            name
            for name in self.tensors
            if name not in expected and not name.endswith(DERIVED_SUFFIXES)
        ]
        problems = [
            *_listed("missing", missing),
            *_listed("unexpected", unexpected),
            *_listed(
                "misshapen",
                [
                    f"{name} (expected {list(shape)}, found {list(stored.shape)} in "
                    f"{stored.file.path.name})"
                    for name, shape in expected.items()
                    if (stored := self.tensors.get(name)) is not None and stored.shape != shape
                ],
            ),
        ]
        if problems:
            raise CheckpointError(
                f"{self.folder}: does not fit its config.json: {'; '.join(problems)}; download "
                "the checkpoint again, or correct config.json"
            )


def _declared_dtype(config: ModelConfig) -> str:
    """Return the stored type that config.json names; transformers 5 writes the key ``dtype``."""
    named = next((config.raw[key] for key in _DTYPE_KEYS if config.raw.get(key)), "bfloat16")
    found = _DTYPES.get(str(named).removeprefix("torch."))
    if found is None:
        raise CheckpointError(
            f"config.json: dtype {named!r} is not one that trtcoder reads; it reads "
            f"{', '.join(_DTYPES)}"
        )
    return found


def widen(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return float32 of stored values; uint16 stands for the upper half of a float32 (BF16)."""
    if values.dtype == np.uint16:
        bits = values.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    return values.astype(np.float32, copy=False)


def _listed(label: str, names: list[str]) -> list[str]:
    return [f"{len(names)} {label}: {listed(names)}"] if names else []


def _folder(given: str | Path) -> Path:
    """Return the folder; a model's name on the Hub and the like get their own remedy.

    Raises:
        CheckpointError: it is not a folder, or may not be read.
    """
    path = Path(given)
    try:
        if path.is_dir():
            if not (path / "config.json").exists() and (path / "snapshots").is_dir():
                raise CheckpointError(
                    f"{path}: is a model's folder in a cache of the Hugging Face Hub; give one of "
                    f"the folders in {path / 'snapshots'}"
                )
            return path
        if path.exists():
            raise CheckpointError(f"{path}: is a file; give the checkpoint's folder")
    except OSError as error:
        raise unreadable(path, error) from error
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(given)):
        raise CheckpointError(
            f"{path}: is not a folder; a model of the Hugging Face Hub must be downloaded first: "
            f"`hf download {path} --local-dir {path.name}`, then give {path.name}"
        )
    raise CheckpointError(f"{path}: is not a folder; give the checkpoint's folder")
