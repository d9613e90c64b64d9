"""Shared libraries that hold a name and nothing else, written byte by byte.

TensorRT-RTX' plugins are linked against libcuda.so.1, which comes with NVIDIA's driver, and look
for libtensorrt_rtx.so, which no package has under that name. A compiler of plans needs no driver:
a library of the right name is enough for the loader, whose functions say that there is no device.

Source of the format: System V ABI, chapters 4 and 5 (object files, dynamic linking), and the
processor supplement for x86-64.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

# mov eax, 100 (CUDA_ERROR_NO_DEVICE); ret
_NO_DEVICE = bytes.fromhex("b864000000c3")
_PAGE = 4096
_HEADER, _SEGMENT, _SYMBOL = 64, 56, 24
_TYPE_SHARED, _X86_64 = 3, 62
_LOAD, _DYNAMIC = 1, 2
_READ_EXECUTE, _READ_WRITE = 5, 6
# Tags of the dynamic section.
_NEEDED, _HASH, _STRINGS, _SYMBOLS, _STRINGS_SIZE, _SYMBOL_SIZE, _NAME = 1, 4, 5, 6, 10, 11, 14


def shell_library(name: str, functions: Sequence[str] = (), needed: Sequence[str] = ()) -> bytes:
    """Return the file of a library for x86-64 Linux.

    Args:
        name: its name to the loader.
        functions: what it has; each returns 100, whatever it is given.
        needed: libraries that are loaded with it, and in which its symbols are looked up too.
    """
    strings = b"\0"
    places = []
    for text in (name, *functions, *needed):
        places.append(len(strings))
        strings += text.encode() + b"\0"
    own, functions_at, needed_at = (
        places[0], places[1 : 1 + len(functions)], places[1 + len(functions) :],
    )  # fmt: skip
    count = 1 + len(functions)
    # One bucket, whose chain goes through all symbols.
    chain = [0, *range(2, count), 0][:count]
    table = struct.pack(f"<3I{count}I", 1, count, min(1, len(functions)), *chain)
    code_at = _HEADER + 3 * _SEGMENT
    table_at = code_at + 8
    symbols_at = -(-(table_at + len(table)) // 8) * 8
    # Global functions of section 1, which need not be there.
    symbols = bytes(_SYMBOL) + b"".join(
        struct.pack("<IBBHQQ", place, 0x12, 0, 1, code_at, len(_NO_DEVICE))
        for place in functions_at
    )
    strings_at = symbols_at + len(symbols)
    end = strings_at + len(strings)
    # On a page of its own: the loader writes to it.
    dynamic_at = -(-end // _PAGE) * _PAGE
    entries = [
        *((_NEEDED, place) for place in needed_at),
        (_NAME, own),
        (_HASH, table_at),
        (_STRINGS, strings_at),
        (_SYMBOLS, symbols_at),
        (_STRINGS_SIZE, len(strings)),
        (_SYMBOL_SIZE, _SYMBOL),
        (0, 0),
    ]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH",
        _TYPE_SHARED, _X86_64, 1, 0, _HEADER, 0, 0, _HEADER, _SEGMENT, 3, 64, 0, 0,
    )  # fmt: skip
    segments = b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, start, start, start, size, size, align)
        for kind, flags, start, size, align in (
            (_LOAD, _READ_EXECUTE, 0, end, _PAGE),
            (_LOAD, _READ_WRITE, dynamic_at, len(dynamic), _PAGE),
            (_DYNAMIC, _READ_WRITE, dynamic_at, len(dynamic), 8),
        )
    )
    image = bytearray(dynamic_at) + dynamic
    for place, part in (
        (0, header + segments),
        (code_at, _NO_DEVICE),
        (table_at, table),
        (symbols_at, symbols),
        (strings_at, strings),
    ):
        image[place : place + len(part)] = part
    return bytes(image)
