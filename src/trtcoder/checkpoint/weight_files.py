"""Which files of a folder hold the weights: one file, or shards with an index.

What transformers reads is read. Where it would choose silently among weights that contradict each
other, the folder is refused and both are named; files that it passes over are noted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from trtcoder.checkpoint.shard import SOURCE_TYPES, Stored, read_shard
from trtcoder.checkpoint.side_files import read_object
from trtcoder.errors import CheckpointError
from trtcoder.model.architecture import DERIVED_SUFFIXES

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SUFFIX = ".safetensors"
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The tensors of a folder by name, and what a user should know of the files."""

    tensors: dict[str, Stored]
    notes: tuple[str, ...]


def find_weights(folder: Path, types: Collection[str] = SOURCE_TYPES) -> WeightFiles:
    """Map the files that hold the weights, whose stored types must be among ``types``.

    Raises:
        CheckpointError: there are none or two sets of them, one is damaged or unsafe, or the index
            does not fit its shards.
    """
    found = sorted(path.name for path in folder.iterdir())
    if INDEX in found:
        index = folder / INDEX
        weight_map = _weight_map(index)
        files = sorted(set(weight_map.values()))
        if SINGLE in found and SINGLE not in files:
            raise CheckpointError(
                f"{folder}: holds two sets of weights, {SINGLE} and the {len(files)} shards of "
                f"{INDEX}; move away the one that is not meant (transformers reads {SINGLE})"
            )
        shards = {file: read_shard(folder / file, types) for file in files}
        tensors = _listed_tensors(index, weight_map, shards)
    elif SINGLE in found:
        files, tensors = [SINGLE], read_shard(folder / SINGLE, types)
    else:
        raise _no_weights(folder, found)
    others = [name for name in found if name.endswith(_SUFFIX) and name not in files]
    notes = (f"not read, as the weights are in {files[0]}: {listed(others)}",) if others else ()
    if len(files) > 1 and others:
        notes = (f"not read, as {INDEX} does not name them: {listed(others)}",)
    return WeightFiles(tensors, notes)


def listed(names: list[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each tensor."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index}: is not a safetensors index: it has no weight_map; download it again"
        )
    for file in map(str, weight_map.values()):
        # Hub caches link shards to other folders; the name itself may not leave this one.
        if Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(f"{index}: {file!r} leaves the folder; names must be plain")
        if Path(file).suffix in PICKLES:
            raise _pickle(index.parent / file)
    return {name: str(file) for name, file in weight_map.items()}


def _listed_tensors(
    index: Path, weight_map: dict[str, str], shards: dict[str, dict[str, Stored]]
) -> dict[str, Stored]:
    """Return the tensors of the shards, which must be those that the index names."""
    absent = [name for name, file in weight_map.items() if name not in shards[file]]
    if absent:
        raise CheckpointError(
            f"{index}: {len(absent)} tensors are not in the shard that it names: "
            f"{_with_files(absent, {name: [weight_map[name]] for name in absent})}; download the "
            "checkpoint again"
        )
    held: dict[str, list[str]] = defaultdict(list)
    for file, shard in shards.items():
        for name in shard:
            held[name].append(file)
    twice = [name for name, files in held.items() if len(files) > 1]
    if twice:
        raise CheckpointError(
            f"{index}: {len(twice)} tensors are in two shards: {_with_files(twice, held)}; remove "
            "the shards that are not of this checkpoint"
        )
    unlisted = [
        name for name in held if name not in weight_map and not name.endswith(DERIVED_SUFFIXES)
    ]
    if unlisted:
        raise CheckpointError(
            f"{index}: {len(unlisted)} tensors of the shards have no entry: "
            f"{_with_files(unlisted, held)}; download index and shards again"
        )
    return {name: shards[file][name] for name, file in weight_map.items()}


def _with_files(names: list[str], files: dict[str, list[str]]) -> str:
    return listed([f"{name} ({' and '.join(files[name])})" for name in names])


def _no_weights(folder: Path, found: list[str]) -> CheckpointError:
    pickles = [name for name in found if Path(name).suffix in PICKLES]
    if pickles:
        return _pickle(folder / pickles[0])
    shards = [name for name in found if name.endswith(_SUFFIX)]
    if shards:
        return CheckpointError(
            f"{folder}: has {listed(shards)} and neither {INDEX} nor {SINGLE}; download the index"
        )
    return CheckpointError(f"{folder}: has neither {INDEX} nor {SINGLE}; download the weights")


def _pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: is a pickle, which can run code when it is read; convert it to safetensors, or "
        "download the safetensors files"
    )
