"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def available_cores(cpus: Path = _CPUS, cgroup: Path = _CGROUP) -> int:
    """Return the physical cores that this process may run on, at least 1.

    Two threads of one core share its multiply units and its path to memory, so a second thread
    on a core slows a matrix product down. A container's CPU quota counts too: threads beyond it
    are paused in the middle of a product while the others wait.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    cores = len({_core_of(cpu, cpus) for cpu in allowed})
    return max(1, min(cores, _quota(cgroup)))


def _core_of(cpu: int, cpus: Path) -> str:
    """Return the set of hardware threads that share ``cpu``'s core, as a name for the core."""
    try:
        return (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(cgroup: Path) -> int:
    """Return the cores that the container's quota grants (cgroup v2, then v1), rounded up."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return os.cpu_count() or 1
    if quota in ("max", "-1"):
        return os.cpu_count() or 1
    return math.ceil(int(quota) / int(period))
