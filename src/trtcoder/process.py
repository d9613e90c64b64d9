"""One run of the command line as the system sees it: streams, signals, exit status."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import click

from trtcoder.errors import TrtcoderError
from trtcoder.printable import printable_line
from trtcoder.refusals import REFUSALS, explain, is_refusal

# What a shell reports for a program that the signal ended.
INTERRUPTED = 128 + signal.SIGINT
CLOSED_PIPE = 141  # 128 + SIGPIPE, which Windows does not have


class ClosedPipeError(Exception):
    """Carries a `BrokenPipeError` past click, which would end the process with 1."""

    def __init__(self, cause: BrokenPipeError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextlib.contextmanager
def past_click() -> Iterator[None]:
    """Raise a `BrokenPipeError` inside as a `ClosedPipeError`."""
    try:
        yield
    except BrokenPipeError as error:
        raise ClosedPipeError(error) from error


def run(command: Callable[[], object]) -> int:
    """Run ``command`` and return its exit status; what goes wrong becomes one line.

    0 is success, 1 an error, 2 wrong usage, 130 an interrupt (Ctrl-C), 141 a closed pipe on
    standard output, and 128 and its number another signal. An exception that is no refusal and no
    error of ours is a defect and passes.
    """
    _occupy_closed_streams()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the whole run
    if sys.stdout is None:
        _complain("standard output is closed; redirect it, to /dev/null where it is not wanted")
        return 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A table with a letter that the encoding lacks is better than none.
            stream.reconfigure(errors="backslashreplace")
    with ending_by_exception():
        try:
            status = command()
            sys.stdout.flush()
        except KeyboardInterrupt:
            return INTERRUPTED
        except click.exceptions.Abort as error:
            return 1 if isinstance(error.__cause__, EOFError) else INTERRUPTED
        except click.ClickException as error:
            with contextlib.suppress(OSError):
                error.show()
            return error.exit_code
        except ClosedPipeError as error:
            return _refused(error.cause)
        except TrtcoderError as error:
            _complain(str(error))
            return 1
        except REFUSALS as error:
            if not is_refusal(error):
                raise
            return _refused(error)
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def ending_by_exception() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit inside the block, as Ctrl-C is KeyboardInterrupt.

    The exit status is the shell's for that signal. What ignores or handles one of them stays.
    """
    ours = [
        each
        for each in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(each) is signal.SIG_DFL
    ]
    for each in ours:
        signal.signal(each, _exit)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _refused(error: BaseException) -> int:
    """Say what was refused; standard output tells by itself when it is the cause."""
    broken = _output_error()
    if broken is not None:
        _drop_output()
    if isinstance(broken or error, BrokenPipeError):
        return CLOSED_PIPE
    _complain(explain(error) if broken is None else explain(broken, "standard output"))
    return 1


def _output_error() -> BaseException | None:
    """Return what keeps standard output from taking what it still holds."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        return error
    return None


def _drop_output() -> None:
    """Lead what standard output still holds nowhere, else Python complains of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"Error: {printable_line(message)}", err=True)


def _occupy_closed_streams() -> None:
    """Open nothing as each closed standard stream, or the next file would get its number.

    A library that prints would then write into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR if number == 2 else os.O_RDONLY)
