"""Devices and links by name, with their makers' numbers.

None of them was measured here. Peaks are of dense bf16 products with float32 sums; what a program
reaches of them is an assumption of its own (`trtcoder.export.scale.stages`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

GB, TB = 1e9, 1e12


@dataclass(frozen=True, slots=True)
class Device:
    """What one stage runs on.

    Attributes:
        memory: bytes.
        bandwidth: of that memory, bytes a second.
        compute: operations a second.
        source: where the numbers are from.
    """

    memory: float
    bandwidth: float
    compute: float
    source: str


@dataclass(frozen=True, slots=True)
class Link:
    """What connects a stage with the next.

    Attributes:
        bandwidth: bytes a second, in one direction.
        latency: seconds from the end of a stage to the start of the next, beside the transfer.
        source: where the numbers are from.
    """

    bandwidth: float
    latency: float
    source: str


Kind = TypeVar("Kind", Device, Link)

DEVICES = {
    "rtx-4090": Device(
        24 * GB, 1008 * GB, 165.2 * TB, "NVIDIA Ada architecture whitepaper, app. A"
    ),
    "rtx-5090": Device(
        32 * GB, 1792 * GB, 209.5 * TB, "NVIDIA RTX Blackwell architecture whitepaper, app. A"
    ),
    "rtx-6000-ada": Device(48 * GB, 960 * GB, 364.2 * TB, "NVIDIA RTX 6000 Ada datasheet"),
    "rtx-pro-6000": Device(
        96 * GB, 1792 * GB, 500 * TB, "NVIDIA RTX PRO 6000 Blackwell datasheet, FP4 divided by 8"
    ),
    "gb10": Device(128 * GB, 273 * GB, 125 * TB, "NVIDIA DGX Spark datasheet, FP4 divided by 8"),
    "h100": Device(80 * GB, 3350 * GB, 989.4 * TB, "NVIDIA H100 SXM datasheet"),
    "h200": Device(141 * GB, 4800 * GB, 989.4 * TB, "NVIDIA H200 SXM datasheet"),
}
# Latencies are assumptions: a kernel's network stack takes some 50 microseconds, RDMA some 10, a
# copy over PCIe or NVLink with its event some 10 and 5.
LINKS = {
    "10gbe": Link(1.25 * GB, 50e-6, "IEEE 802.3, line rate"),
    "100gbe": Link(12.5 * GB, 10e-6, "IEEE 802.3, line rate"),
    "200gbe": Link(25 * GB, 10e-6, "IEEE 802.3, line rate"),
    "pcie4": Link(31.5 * GB, 10e-6, "PCI Express 4.0, 16 lanes of 16 GT/s at 128b/130b"),
    "pcie5": Link(63 * GB, 10e-6, "PCI Express 5.0, 16 lanes of 32 GT/s at 128b/130b"),
    "nvlink4": Link(450 * GB, 5e-6, "NVIDIA H100 SXM datasheet, one direction"),
}


def choose(
    device: str,
    link: str,
    *,
    memory: float | None = None,
    bandwidth: float | None = None,
    compute: float | None = None,
    link_bandwidth: float | None = None,
    latency: float | None = None,
) -> tuple[Device, Link]:
    """Return a device and a link by name, with numbers of one's own in place of their makers'."""
    found, line = DEVICES[device], LINKS[link]
    own = {"memory": memory, "bandwidth": bandwidth, "compute": compute}
    theirs = {"bandwidth": link_bandwidth, "latency": latency}
    return _changed(found, own), _changed(line, theirs)


def _changed(kind: Kind, numbers: dict[str, float | None]) -> Kind:
    given: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if not given:
        return kind
    return dataclasses.replace(kind, **given, source=f"{kind.source}; {', '.join(given)} as given")
