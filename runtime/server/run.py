"""From a command to a server: what takes long at a start is begun first.

Engines are read in a thread while the web framework is imported, which costs as much.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Sequence
from pathlib import Path

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import RequestError
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.server.settings import ServerSettings
from trtcoder.runtime.server.trace_target import is_traced


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
    # Nothing that an import makes becomes garbage; looking for some takes a tenth of the start.
    gc.disable()
    # What can be refused at once is, before a socket is opened.
    is_traced(settings.otel_endpoint)
    for folder in folders:
        Bundle.load(folder, verify_hashes=False)
    listener = _listen(settings)
    from trtcoder.runtime.server.loading import begin_loading

    loading = begin_loading(folders, engine_settings)
    from trtcoder.runtime.server.serving import serve_loading

    serve_loading(loading, listener, settings, engine_settings, log_format=log_format)


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
