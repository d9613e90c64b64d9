"""Safetensors files that a plan's weights go to: shards of bounded size, with an index.

The format (https://github.com/huggingface/safetensors#format) allows no gaps, so within a file wide
types come before narrow ones: each tensor is then aligned to its values, as readers that map the
file want it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from trtcoder.export.weights.data_file import Placed
from trtcoder.export.weights.data_files import DataFiles, open_data_files
from trtcoder.export.weights.plan import Weight, WeightPlan

SHARD_BYTES = 5_000_000_000
# As transformers writes it, and as it wants it.
_METADATA = {"__metadata__": {"format": "pt"}}


def shard(weights: Iterable[Weight], limit: int = SHARD_BYTES) -> dict[str, str]:
    """Return the file of each weight; what belongs to one module stays together.

    A file holds at most ``limit`` bytes of weights, or one module.
    """
    modules: dict[str, list[Weight]] = defaultdict(list)
    for weight in weights:
        modules[weight.name.rpartition(".")[0]].append(weight)
    shards: list[list[Weight]] = [[]]
    filled = 0
    for module in modules.values():
        size = sum(weight.nbytes for weight in module)
        if filled and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1] += module
        filled += size
    return {
        weight.name: f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number, held in enumerate(shards, 1)
        for weight in held
    }


def place(weights: Iterable[Weight], scalars: Collection[str] = ()) -> Placed:
    """Return the layout of one file; ``scalars`` are stored with the shape ``[]``."""
    ordered = sorted(weights, key=lambda weight: -weight.dtype.numpy.itemsize)
    entries: dict[str, object] = dict(_METADATA)
    ends, end = {}, 0
    for weight in ordered:
        ends[weight.name] = end
        entries[weight.name] = {
            "dtype": weight.dtype.value,
            "shape": [] if weight.name in scalars else list(weight.shape),
            "data_offsets": [end, end + weight.nbytes],
        }
        end += weight.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return Placed(
        {weight.name: weight for weight in ordered},
        {name: len(head) + offset for name, offset in ends.items()},
        len(head) + end,
        head,
    )


def place_all(
    plan: WeightPlan, files: Mapping[str, str], scalars: Collection[str] = ()
) -> dict[str, Placed]:
    """Return the layout of every file; ``files`` has that of each weight."""
    held: dict[str, list[Weight]] = defaultdict(list)
    for name, file in files.items():
        held[file].append(plan.declared[name])
    return {file: place(weights, scalars) for file, weights in held.items()}


def index(plan: WeightPlan, files: Mapping[str, str]) -> str:
    """Return the text of the index: which file each tensor is in."""
    total = sum(weight.nbytes for weight in plan.declared.values())
    data = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    return json.dumps(data, indent=2) + "\n"


def open_files(
    plan: WeightPlan, folder: Path, files: Mapping[str, str], scalars: Collection[str] = ()
) -> AbstractContextManager[DataFiles]:
    """Open the files of a plan's weights for writing; what is in them stays.

    ``files`` has the file of each weight, ``scalars`` are stored with the shape ``[]``.

    Raises:
        BuildError: the disk has no room for them.
    """
    return open_data_files(place_all(plan, files, scalars), folder)
