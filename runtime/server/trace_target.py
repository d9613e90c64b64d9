"""Where spans are sent, if anywhere; known before anything long is begun."""

from __future__ import annotations

import os
from collections.abc import Mapping

from trtcoder.errors import RequestError
from trtcoder.refusals import require

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")


def is_traced(endpoint: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether spans are sent: to ``endpoint``, or to where the environment says.

    Raises:
        DependencyError: they are, and the extra is not installed.
        RequestError: the endpoint or the protocol is none that is spoken here.
    """
    is_off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    named = any(environment.get(name) for name in _ENDPOINTS)
    if endpoint is None and (is_off or not named):
        return False
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise RequestError(f"otel_endpoint is {endpoint!r}; expected an address of http or https")
    for name in _PROTOCOLS:
        if environment.get(name, "http/protobuf") != "http/protobuf":
            raise RequestError(f"{name} is {environment[name]}; only http/protobuf is spoken here")
    require("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", extra="otel")
    return True
