"""Data files that are links out of the engine's folder, as a cache of the Hub keeps them.

ONNX Runtime refuses external data outside of the graph's own folder. What such a link leads to is
mapped and given to it as memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Files that no graph takes weights from.
_OTHERS = (".json", ".jinja", ".onnx")


def give_linked_data(
    options: Any, folder: Path, names: Iterable[str], graph: Path | None = None
) -> list[mmap.mmap]:
    """Tell the options of a session of linked data files; return what must live till it is open.

    Args:
        options: an `onnxruntime.SessionOptions`.
        folder: the engine's.
        names: its files.
        graph: the file that the session is made of, whose own real folder ONNX Runtime takes too;
            None for a graph in memory.
    """
    allowed = [folder.resolve()]
    if graph is not None:
        allowed.append(graph.resolve().parent)
    linked = {}
    for name in names:
        path = folder / name
        if path.suffix in _OTHERS:
            continue
        real = path.resolve()
        if not any(real.is_relative_to(each) for each in allowed) and real.stat().st_size:
            with real.open("rb") as file:
                linked[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if linked:
        maps = list(linked.values())
        options.add_external_initializers_from_files_in_memory(
            list(linked), maps, [len(each) for each in maps]
        )
    return list(linked.values())
