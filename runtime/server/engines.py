"""The engines that a server has, by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import RequestError
from trtcoder.runtime.async_llm import AsyncLLM
from trtcoder.runtime.llm import LLM
from trtcoder.runtime.server.errors import ApiError

# Names that clients send when they do not care.
_ANY = frozenset({"", "default"})


@dataclass(slots=True)
class Served:
    """One engine under its name.

    Attributes:
        name: by which requests ask for it.
        folder: where it was loaded from.
        engine: answers.
        fingerprint: of its manifest, which holds the hashes of all its files.
        created: when it was loaded, in seconds since the epoch.
    """

    name: str
    folder: Path
    engine: AsyncLLM
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def llm(self) -> LLM:
        """The engine itself."""
        return self.engine.llm

    def text_of(self, ids: Sequence[int], source: str) -> str:
        """Return the text of token ids; control tokens have none.

        Raises:
            RequestError: an id is outside the vocabulary; names the parameter ``source``.
        """
        size = self.llm.manifest.model.vocab_size
        for index, token in enumerate(ids):
            if not 0 <= token < size:
                raise RequestError(
                    f"{source}[{index}]: {token} is outside the vocabulary of {size}"
                )
        return self.llm.tokenizer.decode(ids)


class Engines:
    """Engines by name; the first is the default.

    Attributes:
        is_draining: no new requests are taken.
    """

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}
        self.is_draining = False

    def add(self, folder: Path, llm: LLM, name: str | None = None) -> Served:
        """Serve an engine that is loaded, in place of one of the same name."""
        name = name or served_name(llm.manifest.model_name)
        fingerprint = f"trtcoder-{Bundle.load(folder, verify_hashes=False).fingerprint()[:16]}"
        self._served[name] = Served(name, folder, AsyncLLM(llm), fingerprint)
        return self._served[name]

    def all(self) -> list[Served]:
        """Return all engines, the default first."""
        return list(self._served.values())

    def get(self, name: str | None) -> Served:
        """Return the engine of a name, however it is capitalised, with or without a tag.

        Raises:
            ApiError: 404, with the names that there are.
        """
        wanted = (name or "").strip().lower()
        for served in self._served.values():
            known = served.name.lower()
            if wanted in _ANY or wanted in (known, f"{known}:latest"):
                return served
        raise ApiError(
            404,
            f"model {name!r} is not served here; there is {', '.join(self._served)}",
            param="model",
            code="model_not_found",
        )

    async def close(self) -> None:
        """End all engines."""
        await asyncio.gather(*(served.engine.close() for served in self._served.values()))


def served_name(model: str) -> str:
    """Return the name under which a model is served.

    Editors choose the markers of FIM by a name that says DeepSeek.
    """
    name = model.rsplit("/", 1)[-1].lower()
    return name if "deepseek" in name else f"deepseek-{name}"
