"""An application over engines that are being loaded, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import structlog
import uvicorn

from trtcoder.errors import TrtcoderError
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.llm import LLM
from trtcoder.runtime.server.app import create_app
from trtcoder.runtime.server.connection import Connection
from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.loading import load
from trtcoder.runtime.server.log import configure_log
from trtcoder.runtime.server.settings import ServerSettings

_log = structlog.get_logger("trtcoder.server")


def serve_loading(
    loading: Mapping[Path, Future[LLM]],
    listener: socket.socket,
    settings: ServerSettings,
    engine_settings: EngineSettings,
    *,
    log_format: str = "console",
) -> None:
    """Serve on ``listener``: health checks at once, each engine when it is loaded.

    Raises:
        EngineError: an engine cannot be loaded.
    """
    configure_log(log_format)
    engines = Engines()
    server = _Server(
        uvicorn.Config(
            create_app(engines, settings),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            http=Connection,
            ws="none",
        ),
        engines,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(server, listener, loading, engine_settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    server: _Server,
    listener: socket.socket,
    loading: Mapping[Path, Future[LLM]],
    settings: EngineSettings,
) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    serving = asyncio.create_task(server.serve([listener]))
    try:
        for folder, loaded in loading.items():
            _log.info("loading", engine=str(folder))
            llm = await asyncio.wrap_future(loaded)
            entry = server.engines.add(folder, llm)
            _log.info(
                "serving",
                engine=entry.name,
                address=address,
                context=llm.context,
                runs_on=llm.engine.runs_on,
            )
        # A look for garbage among all that a start makes would hold up running answers for tens of
        # milliseconds, and find none.
        gc.freeze()
        gc.enable()
        reloader = _Reloader(server.engines, settings)
        with suppress(NotImplementedError):  # not on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.begin)
    except BaseException:
        for loaded in loading.values():
            loaded.cancel()
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
                llm = await asyncio.to_thread(load, served.folder, self._settings)
            except TrtcoderError as error:
                _log.error(
                    "not reloaded, the old one goes on", engine=served.name, error=str(error)
                )
                continue
            self._engines.add(served.folder, llm, served.name)
            _log.info("reloaded", engine=served.name, runs_on=llm.engine.runs_on)
            # Its requests go on; it ends with the last of them.
            while served.llm.engine.thread.core.has_work:
                await asyncio.sleep(0.1)
            await served.engine.close()
            gc.unfreeze()  # the old engine too
            gc.collect()
            gc.freeze()
            _log.info("closed", engine=served.name, fingerprint=served.fingerprint)


class _Server(uvicorn.Server):
    """Refuses new requests as soon as a signal tells it to end."""

    def __init__(self, config: uvicorn.Config, engines: Engines) -> None:
        super().__init__(config)
        self.engines = engines
        self._signal: signal.Signals | None = None

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to drain; a second signal ends at once.

        A signal comes in the middle of anything, of a line of the log too, whose lock its thread
        then holds: nothing is written here.
        """
        self._signal = self._signal or signal.Signals(sig)
        self.engines.is_draining = True
        super().handle_exit(sig, frame)  # type: ignore[arg-type]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running answers end, and tell whoever comes meanwhile that the server is closing."""
        if self._signal is not None:
            _log.info("draining", signal=self._signal.name)
        ends = time.monotonic() + (self.config.timeout_graceful_shutdown or 0)
        # Requests that come now end at once: a page looks whether the server is ready.
        while self.server_state.tasks and time.monotonic() < ends and not self.force_exit:
            await asyncio.sleep(0.05)
        left = max(1, round(ends - time.monotonic()))
        self.config.timeout_graceful_shutdown = left
        await super().shutdown(sockets)
