"""A replica: engines in a process of Ray's, each with the whole server over it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from weakref import WeakValueDictionary

from fastapi import FastAPI

from trtcoder.errors import EngineError
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.ray.asgi import answer
from trtcoder.runtime.ray.call import Call, Head
from trtcoder.runtime.server.app import create_app
from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.health import problem_of
from trtcoder.runtime.server.loading import load
from trtcoder.runtime.server.service import Service
from trtcoder.runtime.server.settings import ServerSettings


class LoadedApp:
    """One engine and the server over it.

    Ray calls `__del__` when another engine takes its place, also while it answers: it ends with the
    last of its requests.
    """

    def __init__(
        self, name: str, folder: Path, settings: ServerSettings, engine: EngineSettings
    ) -> None:
        self.engines = Engines()
        self.engines.add(folder, load(folder, engine), name)
        self.app: FastAPI = create_app(self.engines, settings)
        self._is_closed = False

    def problem(self) -> str | None:
        """Return why it cannot take requests; None where it can."""
        service: Service = self.app.state.service
        return None if self._is_closed else problem_of(service)

    def close(self) -> None:
        """End it when its requests have ended."""
        self._is_closed = True
        for served in self.engines.all():
            thread = served.llm.engine.thread
            while thread.is_alive and thread.core.has_work:
                time.sleep(0.05)
            served.llm.close()

    def __del__(self) -> None:
        if hasattr(self, "_is_closed"):  # it was loaded
            self.close()


class Replica:
    """What Ray Serve runs several of.

    With one engine it is loaded before the replica counts as ready; of several, each when the first
    request asks for it (`trtcoder.runtime.ray.app` lets Ray keep and end them).
    """

    def __init__(
        self, folders: dict[str, Path], settings: ServerSettings, engine: EngineSettings
    ) -> None:
        self._folders = folders
        self._settings = settings
        self._engine = engine
        # Of several, Ray keeps those that are loaded; here they are only looked at.
        self._apps: MutableMapping[str, LoadedApp] = WeakValueDictionary()
        if len(folders) == 1:
            self._only = self._open(*folders)

    async def __call__(self, call: Call) -> AsyncIterator[Head | bytes]:
        """Yield the head of the response, then its body in pieces."""
        loaded = await self.loaded()
        async for piece in answer(loaded.app, call):
            yield piece

    async def loaded(self) -> LoadedApp:
        """Return the only engine."""
        return self._only

    def check_health(self) -> None:
        """Raise EngineError where an engine has ended or is stuck; Ray then replaces it."""
        for loaded in self._apps.values():
            problem = loaded.problem()
            if problem is not None:
                raise EngineError(f"{problem}; Ray starts this replica anew")

    def _open(self, name: str) -> LoadedApp:
        loaded = LoadedApp(name, self._folders[name], self._settings, self._engine)
        self._apps[name] = loaded
        return loaded
