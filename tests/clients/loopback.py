"""A network that has nothing but loopback, so that what works in it needs no other machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import sys

_INSIDE = "TRTCODER_CLIENTS_INSIDE"
# Of <linux/sockios.h> and <net/if.h>.
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1


def is_inside() -> bool:
    """Whether this process runs in such a network."""
    return os.environ.get(_INSIDE) == "1"


def enter() -> None:
    """Run this program again in a network of its own, and raise loopback there.

    Raises:
        RuntimeError: the program `unshare` is missing, or another machine can be reached.
    """
    if not is_inside():
        unshare = shutil.which("unshare")
        if unshare is None:
            raise RuntimeError("unshare is not installed; it is in util-linux")
        as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = [unshare, "--net", *as_root, sys.executable, "-m", "tests.clients", *sys.argv[1:]]
        os.execve(unshare, command, {**os.environ, _INSIDE: "1"})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(handle, _GET_FLAGS, request), 16)
        fcntl.ioctl(handle, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))
        try:
            handle.connect(("192.0.2.1", 9))
        except OSError:
            return
    raise RuntimeError("another machine can be reached; clients are run on loopback only")
