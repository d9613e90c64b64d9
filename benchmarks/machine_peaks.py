"""What this machine can do at most, by a small program: reads of memory, and products of int8."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from plugins.build import compiler
from trtcoder.cores import available_cores

SOURCE = Path(__file__).with_name("peaks.cpp")


@dataclass(frozen=True, slots=True)
class Peaks:
    """What all cores do together.

    Attributes:
        read: bytes a second from memory.
        int8: by instruction set, operations a second in registers; a product and its sum are two.
    """

    read: float
    int8: dict[str, float]

    @property
    def best_int8(self) -> float:
        """That of the best instruction set."""
        return max(self.int8.values())


def measure_peaks(seconds: float = 0.5, times: int = 3) -> Peaks:
    """Compile the program and run it a few times, for ``seconds`` a figure; the best count.

    Raises:
        click.ClickException: there is no compiler.
    """
    command = compiler()
    if command is None:
        raise click.ClickException("no C++ compiler: install g++ or clang, or ziglang by pip")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peaks"
        flags = ["-std=c++20", "-O3", "-pthread", str(SOURCE), "-o", str(program)]
        subprocess.run([*command, *flags], check=True)
        arguments = [str(program), str(available_cores()), str(seconds)]
        found = [
            json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
            for _ in range(times)
        ]
    names = found[0]["int8"]
    return Peaks(
        max(each["read"] for each in found),
        {name: max(each["int8"][name] for each in found) for name in names},
    )
