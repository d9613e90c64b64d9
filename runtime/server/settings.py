"""How a server is run, beside its engines (`runtime.engine.settings`)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from trtcoder.errors import RequestError
from trtcoder.refusals import reason
from trtcoder.runtime.server.fim.options import FimDefaults

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the operator of a server may choose.

    Attributes:
        host, port: where it listens.
        api_keys: keys that requests must show; none on loopback lets all in.
        insecure: let all in on other addresses too.
        max_body_bytes: larger request bodies are refused.
        max_answer_tokens: of requests that give no limit.
        keep_alive_seconds: a stream that is silent for so long gets a comment.
        drain_seconds: how long running answers may go on after SIGTERM.
        stuck_seconds: a step that takes longer makes the server not ready.
        cors_origins: browsers' origins that may call; none by default.
        hosts: names beside loopback's that a Host header may hold on loopback.
        rendered_fim: recognise FIM markers that a client has written into a raw prompt.
        fim: options of filling in the middle, for requests that do not say.
        page: offer browsers the page at `/`.
        otel_endpoint: where spans are sent; None leaves it to the environment.
        vllm_metrics: offer metrics under vLLM's names too.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    insecure: bool = False
    max_body_bytes: int = 16 * MIB
    max_answer_tokens: int = 4096
    keep_alive_seconds: float = 10.0
    drain_seconds: float = 30.0
    stuck_seconds: float = 300.0
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    rendered_fim: bool = True
    fim: FimDefaults = field(default_factory=FimDefaults)
    page: bool = True
    otel_endpoint: str | None = None
    vllm_metrics: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("port", 0),
            ("max_body_bytes", 1024),
            ("max_answer_tokens", 1),
            ("drain_seconds", 0),
            ("stuck_seconds", 1),
        ):
            if getattr(self, name) < least:
                raise RequestError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.keep_alive_seconds <= 0:
            raise RequestError(
                f"keep_alive_seconds is {self.keep_alive_seconds}; it must be above 0"
            )
        if not self.is_loopback and not self.api_keys and not self.insecure:
            raise RequestError(
                f"host {self.host}: others can reach this address; give --api-key-file, or "
                "--insecure to let everybody in"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_api_keys(path: Path) -> tuple[str, ...]:
    """Return the keys of a file, one a line; empty lines and those that begin with # are none.

    Raises:
        RequestError: the file cannot be read or has no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read ({reason(error)})") from error
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys:
        raise RequestError(f"{path}: has no key; write one a line")
    return keys
