"""A client, and how its run ended."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.clients.package import Package
from tests.clients.session import ClientError, Session


@dataclass(frozen=True, slots=True)
class Client:
    """A program or a library that people point at a server.

    Attributes:
        name: by which one is chosen.
        package: what it is installed from; None where our own environment has it.
        version: that is run.
        endpoints: it calls, which the server's log is compared with.
        asked: what is shown, in words.
        run: does it; raises where it fails.
    """

    name: str
    package: Package | None
    version: str
    endpoints: tuple[str, ...]
    asked: str
    run: Callable[[Session], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a client's run ended; ``problem`` is empty where all was well."""

    client: str
    version: str
    endpoints: tuple[str, ...]
    asked: str
    seconds: float
    problem: str


def run(client: Client) -> Outcome:
    """Run a client and judge the requests that the server logged."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"{client.name}-", ignore_cleanup_errors=True) as work:
        session = Session(Path(work), client.package)
        try:
            client.run(session)
            problem = _judged(client, session)
        except (AssertionError, ClientError) as error:
            problem = str(error) or traceback.format_exc(limit=-1)
        except Exception:
            problem = traceback.format_exc()
    seconds = round(time.monotonic() - started, 1)
    return Outcome(
        client.name, client.version, client.endpoints, client.asked, seconds, problem.strip()
    )


def _judged(client: Client, session: Session) -> str:
    """Return what the server's log has against a run: a refusal, or an endpoint not called."""
    requests = session.requests()
    refused = [
        f"{each['method']} {each['path']}: {each['status']}"
        for each in requests
        if each["status"] >= 400
    ]
    if refused:
        return f"the server refused {', '.join(refused)}"
    called = {each["path"] for each in requests}
    missing = [each for each in client.endpoints if each not in called]
    return f"it never called {', '.join(missing)}" if missing else ""
