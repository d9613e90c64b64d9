"""Runs one program within bounds, in a cell or in a folder; a script, given as text with `-c`.

Its argument is JSON of the bounds and of two descriptors: what to run is read from the one. That
the program ran to its end is told by its token on the other, and by nothing else: not by an exit
status, and not by what it prints.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import resource
import sys


def main() -> None:
    """Bound this process, then run the program in it."""
    limits = json.loads(sys.argv[1])
    bounds = {
        "RLIMIT_AS": limits["memory_bytes"],
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": limits["cpu_seconds"],
        "RLIMIT_FSIZE": limits["file_bytes"],
        "RLIMIT_NOFILE": limits["open_files"],
        "RLIMIT_NPROC": limits["processes"],
    }
    for name, most in bounds.items():
        if most is not None:
            kind = getattr(resource, name)
            _, hard = resource.getrlimit(kind)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
    with open(limits["order"], encoding="utf-8") as file:
        order = json.load(file)
    sys.argv = ["program.py"]
    # Those that an interpreter with its site packages has.
    vars(builtins).update(exit=sys.exit, quit=sys.exit)
    sys.path += order["packages"]
    sys.setrecursionlimit(order["recursion"])
    _run(order["source"], order["may_exit"])
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os.write(limits["report"], order["token"].encode())
    os._exit(0)


def _run(source: str, may_exit: bool) -> None:
    try:
        exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if not may_exit or end.code not in (None, 0):
            raise


if __name__ == "__main__":
    main()
