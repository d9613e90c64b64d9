"""How long `trtcoder serve` takes from its start to the first answer of `/health/ready`."""

from __future__ import annotations

import statistics

import click

from benchmarks.engines import demo_engine
from benchmarks.record import keep
from benchmarks.serving import serving


@click.command()
@click.option("--starts", default=10, show_default=True)
def main(starts: int) -> None:
    """Start the demo engine's server again and again; print a line, then one JSON line."""
    engine = demo_engine()
    with serving(engine):  # files and bytecode are in the system's cache from here on
        pass
    seconds = []
    for _ in range(starts):
        with serving(engine) as server:
            seconds.append(round(server.seconds, 3))
    seconds.sort()
    median = round(statistics.median(seconds), 3)
    click.echo(f"ready after {median} s (median of {starts}; {seconds[0]} to {seconds[-1]} s)")
    keep("startup", {"engine": "demo, int4", "seconds": seconds, "median": median})


if __name__ == "__main__":
    main()
