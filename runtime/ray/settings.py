"""What an application on Ray Serve is given: the ``args`` of its entry in a Serve configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import RequestError
from trtcoder.runtime.engine.settings import EngineSettings
from trtcoder.runtime.server.engines import served_name
from trtcoder.runtime.server.settings import ServerSettings, read_api_keys

ROUTERS = ("prefix", "load")


class RaySettings(BaseModel):
    """Replicas, and how each runs its engine.

    Attributes:
        engines: folders, on every node at the same path. `serve run` takes one text with commas.
        min_replicas, max_replicas: between which Ray chooses.
        target_requests: that a replica has, running and waiting, before Ray starts another; None
            takes ``max_batch``.
        upscale_seconds, downscale_seconds: that more or fewer are wanted before Ray acts.
        cpus: that Ray counts for a replica, whole or in part.
        threads: of a replica's products; None takes ``cpus``, and at least 1.
        engines_per_replica: of several engines, how many a replica holds at a time.
        ingresses: processes that take requests and hand them on.
        router: ``prefix`` sends prompts that begin alike to one replica, ``load`` looks at queues.
        imbalance: requests by which one queue may be longer before ``prefix`` looks at queues too.
        api_key_file: keys that requests must show, one a line, on every node.
        insecure: take requests without keys.
        context, cache_tokens, max_batch, deterministic, speculate, prefix_store: as of `trtcoder
            serve`.
        drain_seconds: how long a replica that is stopped goes on with its answers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engines: tuple[Path, ...] = Field(min_length=1)
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    target_requests: float | None = Field(default=None, gt=0)
    upscale_seconds: float = Field(default=30.0, ge=0)
    downscale_seconds: float = Field(default=600.0, ge=0)
    cpus: float = Field(default=1.0, gt=0)
    threads: int | None = Field(default=None, ge=1)
    engines_per_replica: int = Field(default=1, ge=1)
    ingresses: int = Field(default=1, ge=1)
    router: str = Field(default="prefix", pattern=f"^({'|'.join(ROUTERS)})$")
    imbalance: int = Field(default=8, ge=1)
    api_key_file: Path | None = None
    insecure: bool = False
    context: int | None = None
    cache_tokens: int | None = None
    max_batch: int = Field(default=8, ge=1)
    deterministic: bool = False
    speculate: bool | None = None
    prefix_store: Path | None = None
    drain_seconds: float = Field(default=30.0, ge=0)

    @field_validator("engines", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(",") if part] if isinstance(value, str) else value

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> RaySettings:
        """Read the arguments.

        Raises:
            RequestError: names each that is missing, unknown or out of range.
        """
        try:
            settings = cls.model_validate(dict(arguments))
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
            ]
            raise RequestError("; ".join(problems)) from error
        if settings.max_replicas < settings.min_replicas:
            raise RequestError(
                f"max_replicas is {settings.max_replicas}, and min_replicas "
                f"{settings.min_replicas}; it must be at least as large"
            )
        if settings.api_key_file is None and not settings.insecure:
            raise RequestError(
                "others can reach what Ray serves; give api_key_file, or insecure: true to let "
                "everybody in"
            )
        return settings

    def named(self) -> dict[str, Path]:
        """Return the engines by the name under which each is served, without loading them.

        Raises:
            EngineError: a folder is no engine.
            RequestError: two have one name.
        """
        found: dict[str, Path] = {}
        for folder in self.engines:
            manifest = Bundle.load(folder, verify_hashes=False).manifest
            name = served_name(manifest.model_name)
            if name in found:
                raise RequestError(
                    f"{folder} and {found[name]} are both served as {name}; give one of them to "
                    "an application of its own"
                )
            found[name] = folder
        return found

    def engine(self) -> EngineSettings:
        """Return how a replica runs an engine."""
        return EngineSettings(
            threads=self.threads or max(1, round(self.cpus)),
            context=self.context,
            cache_tokens=self.cache_tokens,
            max_batch=self.max_batch,
            deterministic=self.deterministic,
            speculate=self.speculate,
            prefix_store=self.prefix_store,
        )

    def server(self) -> ServerSettings:
        """Return how a replica answers: as a server that others can reach, without the page."""
        keys = () if self.api_key_file is None else read_api_keys(self.api_key_file)
        # Ray listens; this host only says that names of all kinds come here.
        return ServerSettings(
            host="0.0.0.0",
            api_keys=keys,
            insecure=self.insecure,
            drain_seconds=self.drain_seconds,
            page=False,
        )
