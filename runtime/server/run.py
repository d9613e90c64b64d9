"""Loads engines, serves them, and ends well."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvicorn

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import RequestError
from trtcoder.runtime.cache.budget import tokens_that_fit
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.llm import LLM
from trtcoder.runtime.server.app import create_app
from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.log import configure_log
from trtcoder.runtime.server.settings import ServerSettings

_log = structlog.get_logger("trtcoder.server")


def run_server(
    folders: Sequence[Path],
    settings: ServerSettings,
    engine_settings: EngineSettings,
    *,
    log_format: str = "console",
) -> None:
    """Listen, load the engines, and serve until a signal ends it.

    The socket is open before the engines are loaded: health checks are answered meanwhile.

    Raises:
        RequestError: the address cannot be listened on, or a setting is out of range.
        EngineError: an engine cannot be loaded.
    """
    configure_log(log_format)
    # What can be refused at once is, before a socket is opened.
    for folder in folders:
        Bundle.load(folder, verify_hashes=False)
    listener = _listen(settings)
    engines = Engines()
    server = _Server(
        uvicorn.Config(
            create_app(engines, settings),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            h11_max_incomplete_event_size=1 << 16,
        ),
        engines,
    )
    asyncio.run(_serve(server, listener, folders, engine_settings))


async def _serve(
    server: _Server,
    listener: socket.socket,
    folders: Sequence[Path],
    settings: EngineSettings,
) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    serving = asyncio.create_task(server.serve([listener]))
    try:
        for folder in folders:
            _log.info("loading", engine=str(folder))
            served = await asyncio.to_thread(_load, folder, settings)
            entry = server.engines.add(folder, served)
            _log.info("serving", engine=entry.name, address=address, context=served.context)
    except BaseException:
        server.should_exit = True
        await serving
        raise
    sys.stderr.flush()
    await serving


def _load(folder: Path, settings: EngineSettings) -> LLM:
    import dataclasses

    if settings.cache_tokens is None:
        manifest = Bundle.load(folder, verify_hashes=False).manifest
        fitting = tokens_that_fit(manifest, settings.context)
        settings = dataclasses.replace(settings, cache_tokens=fitting)
    return LLM(folder, settings=settings)


class _Server(uvicorn.Server):
    """Refuses new requests as soon as a signal tells it to end."""

    def __init__(self, config: uvicorn.Config, engines: Engines) -> None:
        super().__init__(config)
        self.engines = engines

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to drain; a second signal ends at once."""
        if not self.engines.is_draining:
            _log.info("draining", signal=signal.Signals(sig).name)
        self.engines.is_draining = True
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise RequestError(
            f"{settings.host}:{settings.port}: cannot listen there: {error.strerror or error}; "
            "choose another --port or --host"
        ) from error
    return listener
