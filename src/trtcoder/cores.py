"""How many cores this process may use: the one answer, for every thread pool."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# Where version 1 mounts its controller of CPU time.
_VERSION_1 = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def available_cores(
    cpus: Path | None = None, cgroups: Path | None = None, membership: Path | None = None
) -> int:
    """Return the physical cores that this process may run on, at least 1.

    Two threads of one core share its multiply units and its path to memory, so a second thread
    on a core slows a matmul down. A CPU quota counts too, that of the process' own control
    group and of every one above it: threads beyond it are paused in the middle of a matmul while
    the others wait.

    The arguments are the folder of the system's CPUs, of its control groups, and the file that says
    in which of them the process is.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    cores = len({_core_of(cpu, cpus or _CPUS) for cpu in allowed})
    quota = min(_quotas(cgroups or _CGROUPS, membership or _MEMBERSHIP), default=cores)
    return max(1, min(cores, quota))


@contextmanager
def library_threads() -> Iterator[None]:
    """Keep BLAS, OpenMP and torch to `available_cores` inside the block.

    By themselves they start a thread for each core of the machine, or of the affinity at best; what
    a user set lower stays. Only what is imported already is limited.
    """
    from threadpoolctl import ThreadpoolController

    cores = available_cores()
    controller = ThreadpoolController()
    limits = {
        library["prefix"]: min(cores, library["num_threads"]) for library in controller.info()
    }
    torch = sys.modules.get("torch")
    before = 0 if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(min(cores, before))
    try:
        with controller.limit(limits=limits):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def _core_of(cpu: int, cpus: Path) -> str:
    """Return the set of hardware threads that share ``cpu``'s core, as a name for the core."""
    try:
        return (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quotas(cgroups: Path, membership: Path) -> Iterator[int]:
    """Return the cores that each quota above this process grants, rounded up."""
    for folder in _folders(cgroups, membership):
        try:
            limit = (folder / "cpu.max").read_text().split()
        except OSError:
            try:
                files = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
                limit = [file.read_text().strip() for file in files]
            except OSError:
                continue
        try:
            quota, period = map(int, limit)
        except ValueError:  # "max"
            continue
        if quota > 0 and period > 0:
            yield math.ceil(quota / period)


def _folders(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Return the folders that may hold a quota of this process: its control groups' up to the root.

    A container sees its own group as the root, whatever its name outside is.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    groups: dict[Path, str] = {cgroups: "/"} | {cgroups / name: "/" for name in _VERSION_1}
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            groups[cgroups] = groups[cgroups / "unified"] = group
        elif "cpu" in controllers.split(","):
            groups |= {cgroups / name: group for name in _VERSION_1}
    for root, group in groups.items():
        folder = root
        yield folder
        for part in Path(group).parts[1:]:
            if part == "..":  # outside what a container sees
                break
            folder = folder / part
            yield folder
