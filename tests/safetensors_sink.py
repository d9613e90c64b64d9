"""A second place for weights to go: safetensors files, each with some of the weights."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from blake3 import blake3

from trtcoder.export.weights.plan import Part, Rows, Step, Weight, WeightPlan


class SafetensorsSink:
    """Writes a plan's weights to the files that ``files`` gives by weight (see `Sink`)."""

    def __init__(self, plan: WeightPlan, folder: Path, files: Mapping[str, str]) -> None:
        self._weights = plan.declared
        self._paths = {name: folder / name for name in sorted(set(files.values()))}
        self._places: dict[str, tuple[Path, int]] = {}
        self._filled: Counter[str] = Counter()
        self._lock = threading.Lock()
        for name, path in self._paths.items():
            mine = [weight for weight in self._weights.values() if files[weight.name] == name]
            header, size = self._header(path, mine)
            path.write_bytes(header)
            with path.open("r+b") as file:
                file.truncate(len(header) + size)

    def write(self, step: Step, part: Part) -> int:
        weight = self._weights[part.weight]
        path, offset = self._places[weight.name]
        with self._lock, path.open("r+b") as file:
            file.seek(offset + part.start * weight.row_nbytes)
            file.write(np.ascontiguousarray(part.value).tobytes())
        return part.value.nbytes

    def digest(self, rows: Rows) -> str:
        weight = self._weights[rows.weight]
        path, offset = self._places[weight.name]
        start, stop = (offset + row * weight.row_nbytes for row in (rows.start, rows.stop))
        return blake3(path.read_bytes()[start:stop]).hexdigest()

    def sync(self) -> None:
        pass

    def add_filled(self, rows: Mapping[str, int]) -> None:
        self._filled.update(rows)

    def finish(self) -> dict[str, str]:
        assert self._filled == {name: w.shape[0] for name, w in self._weights.items()}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in self._paths.items()
        }

    def _header(self, path: Path, weights: list[Weight]) -> tuple[bytes, int]:
        entries: dict[str, dict[str, object]] = {}
        starts: dict[str, int] = {}
        end = 0
        for weight in weights:
            starts[weight.name] = end
            entries[weight.name] = {
                "dtype": weight.dtype.value,
                "shape": weight.shape,
                "data_offsets": [end, end + weight.nbytes],
            }
            end += weight.nbytes
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        for weight in weights:
            self._places[weight.name] = path, 8 + len(text) + starts[weight.name]
        return len(text).to_bytes(8, "little") + text, end
