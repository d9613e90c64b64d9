"""The application that Ray Serve deploys: ``import_path: trtcoder.runtime.ray.app:build``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from trtcoder.errors import RequestError
from trtcoder.refusals import require
from trtcoder.runtime.ray.ingress import Ingress
from trtcoder.runtime.ray.replica import LoadedApp, Replica
from trtcoder.runtime.ray.settings import RaySettings

PREFIX_ROUTER = (
    "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router"
    ":PrefixCacheAffinityRouter"
)


def build(args: Mapping[str, Any]) -> Any:
    """Return the application, for `serve run`, `serve deploy` and `ray.serve.run`.

    Args:
        args: the fields of `RaySettings`.

    Raises:
        DependencyError: ray is not installed.
        EngineError: a folder is no engine.
        RequestError: an argument is missing, unknown or out of range.
    """
    require("ray", extra="ray")
    from ray import serve

    settings = RaySettings.of(args)
    folders = settings.named()
    if settings.engines_per_replica > len(folders):
        raise RequestError(
            f"engines_per_replica is {settings.engines_per_replica}, and there are {len(folders)} "
            "engines; it must be at most as large"
        )
    server = settings.server()
    replicas = serve.deployment(
        Replica if len(folders) == 1 else _several(settings.engines_per_replica),
        name="replicas",
        ray_actor_options={"num_cpus": settings.cpus},
        # What waits in Ray's queue can still go to any replica.
        max_ongoing_requests=2 * settings.max_batch,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_requests or settings.max_batch,
            "upscale_delay_s": settings.upscale_seconds,
            "downscale_delay_s": settings.downscale_seconds,
        },
        **_routed(settings),
    )
    ingress = serve.deployment(
        Ingress,
        name="ingress",
        num_replicas=settings.ingresses,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=10_000,
    )
    bound = replicas.bind(folders, server, settings.engine())
    return ingress.bind(bound, tuple(folders), server.max_body_bytes)


def _routed(settings: RaySettings) -> dict[str, Any]:
    if settings.router != "prefix":
        return {}
    from ray.serve.config import RequestRouterConfig

    return {
        "request_router_config": RequestRouterConfig(
            request_router_class=PREFIX_ROUTER,
            request_router_kwargs={"imbalanced_threshold": settings.imbalance},
        )
    }


def _several(count: int) -> type[Replica]:
    """Return replicas that hold ``count`` of several engines, which Ray loads and ends."""
    from ray import serve

    class Multiplexed(Replica):
        """Engines by the name that a request asks for."""

        async def loaded(self) -> LoadedApp:
            """Return the engine that the request asks for."""
            name = serve.get_multiplexed_model_id() or next(iter(self._folders))
            found: LoadedApp = await self.engine_named(name)
            return found

        async def engine_named(self, name: str) -> LoadedApp:
            """Load an engine beside the event loop."""
            return await asyncio.to_thread(self._open, name)

    Multiplexed.engine_named = serve.multiplexed(  # type: ignore[method-assign]
        Multiplexed.engine_named, max_num_models_per_replica=count
    )
    return Multiplexed
