"""Loads engines, serves them, and ends well."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog
import uvicorn

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import RequestError, TrtcoderError
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
        reloader = _Reloader(server.engines, settings)
        with suppress(NotImplementedError):  # not on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.begin)
    except BaseException:
        server.should_exit = True
        await serving
        raise
    sys.stderr.flush()
    await serving


class _Reloader:
    """Loads all engines anew from their folders, and drops no request on the way."""

    def __init__(self, engines: Engines, settings: EngineSettings) -> None:
        self._engines = engines
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin, unless it is on its way already."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        for served in self._engines.all():
            _log.info("reloading", engine=served.name)
            try:
                llm = await asyncio.to_thread(_load, served.folder, self._settings)
            except TrtcoderError as error:
                _log.error(
                    "not reloaded, the old one goes on", engine=served.name, error=str(error)
                )
                continue
            self._engines.add(served.folder, llm, served.name)
            _log.info("reloaded", engine=served.name)
            # Its requests go on; it ends with the last of them.
            while served.llm.engine.thread.core.has_work:
                await asyncio.sleep(0.1)
            await served.engine.close()
            _log.info("closed", engine=served.name, fingerprint=served.fingerprint)


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
