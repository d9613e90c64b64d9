"""Shuts itself into namespaces of its own and becomes the runner of a program; a script.

It is run by path, by an interpreter without packages, with one argument: JSON of what is seen in
the cell (`python`, `runner`, `seen`, `root`) and of its bounds (`limits`). What the program sees
then is an empty `/tmp`, and read-only what Python needs: no other process, no network, no file of
anyone. Exit status 77 says that this host has no such means; the reason is on standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

NO_MEANS = 77
# Of <sched.h>, <sys/mount.h>, <linux/mount.h> and <sys/prctl.h>.
_NEW_SPACES = 0x00020000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
_NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 2, 4, 4096, 16384, 1 << 18
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MNT_DETACH = 442, -100, 0x8000, 2
_SET_PDEATHSIG, _SET_NO_NEW_PRIVS = 1, 38
_DEVICES = ("null", "zero", "urandom", "random")
# Inside: the one who sets up, and the one who runs the program and owns nothing.
_NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def main() -> None:
    """Set the cell up and run the program; end as it ends."""
    order = json.loads(sys.argv[1])
    try:
        as_other = _enter()
        # Whoever is outside goes, and all inside goes with it. (A change of user forgets it.)
        _call("prctl", _SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        inside = os.fork()
        if inside:
            _, status = os.waitpid(inside, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        _furnish(order["root"], order["seen"], order["limits"])
        if as_other:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        _call("prctl", _SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        _call("prctl", _SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        python = order["python"]
        command = [python, "-I", "-S", "-c", order["runner"], json.dumps(order["limits"])]
        os.execve(python, command, order["environment"])
    except OSError as error:
        print(f"{error.strerror}", file=sys.stderr, flush=True)
        os._exit(NO_MEANS)


def _enter() -> bool:
    """Enter new namespaces; return whether the program can be somebody who owns nothing there.

    Root's own number passes the bound on processes, so root maps a second one, which only a process
    outside may do.
    """
    user, group = os.geteuid(), os.getegid()
    ready, go = os.pipe()
    helper = os.fork() if user == 0 else 0
    if user == 0 and not helper:
        os.close(go)
        os.read(ready, 1)
        try:
            _map(os.getppid(), f"0 0 1\n{_NOBODY} {_NOBODY} 1\n", f"0 0 1\n{_NOBODY} {_NOBODY} 1\n")
        except OSError:
            os._exit(1)
        os._exit(0)
    _call("unshare", _NEW_SPACES)
    os.write(go, b"!")
    os.close(ready)
    os.close(go)
    if helper:
        _, status = os.waitpid(helper, 0)
        if status == 0:
            return True
    with open("/proc/self/setgroups", "w") as file:
        file.write("deny")
    # Not root's number inside: a program that is started then has no capability.
    _map(os.getpid(), f"{_NOBODY} {user} 1\n", f"{_NOBODY} {group} 1\n")
    return False


def _map(process: int, users: str, groups: str) -> None:
    for name, text in (("uid_map", users), ("gid_map", groups)):
        with open(f"/proc/{process}/{name}", "w") as file:
            file.write(text)


def _furnish(root: str, seen: list[str], limits: dict[str, Any]) -> None:
    """Make ``root``, an empty folder, the root of everything: ``seen`` read-only, and a `/tmp`."""
    _mount("none", "/", None, _REC | _PRIVATE)
    size = limits["files_bytes"]
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, f"size={size},nr_inodes=4096,mode=755")
    for path in seen:
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w"):
                pass
        _mount(path, target, None, _BIND | _REC)
        _seal(target, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    os.makedirs(root + "/dev", exist_ok=True)
    for name in _DEVICES:
        with open(f"{root}/dev/{name}", "w"):
            pass
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, _BIND)
    # There already where Python lies below it.
    os.makedirs(root + "/tmp", exist_ok=True)
    os.chmod(root + "/tmp", 0o1777)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/tmp")


def _seal(path: str, attributes: int) -> None:
    """Give a mount and all below it ``attributes``."""
    wanted = _Attributes(set=attributes)
    _call(
        "syscall", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), _AT_RECURSIVE,
        ctypes.byref(wanted), ctypes.sizeof(wanted),
    )  # fmt: skip


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    _call(
        "mount", os.fsencode(source), os.fsencode(target), kind and kind.encode(),
        ctypes.c_ulong(flags), options.encode() or None,
    )  # fmt: skip


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library.

    Raises:
        OSError: it refuses; the message names it.
    """
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
