"""A Ray of its own on this machine, run by Ray's own environment; obeys lines of JSON.

``{"run": ARGUMENTS}`` deploys the application in place of what is there and answers when it is
ready; ``{"replicas": true}`` tells how many replicas run; the end of the input ends it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

NAME = "trtcoder"


def main(port: int, temporary: str) -> None:
    """Serve on ``port``; Ray's files go to ``temporary``."""
    import ray
    from ray import serve

    from trtcoder.runtime.ray.app import build

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=temporary,
        object_store_memory=200_000_000,
    )
    _start_proxy({"host": "127.0.0.1", "port": port})
    _say({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        if "run" in asked:
            serve.delete(NAME)
            serve.run(build(asked["run"]), name=NAME)
            _say({"running": True})
        else:
            deployments = serve.status().applications[NAME].deployments
            _say({"replicas": deployments["replicas"].replica_states.get("RUNNING", 0)})
    serve.shutdown()
    ray.shutdown()


def _start_proxy(options: dict[str, Any]) -> None:
    """Start Serve's proxy, for which it waits a minute: on a busy machine it takes more."""
    from ray import serve
    from ray.exceptions import GetTimeoutError, RayActorError

    for _ in range(4):
        try:
            serve.start(http_options=options)
            return
        except (GetTimeoutError, RayActorError) as error:
            print(f"not yet: {error}", file=sys.stderr, flush=True)
    serve.start(http_options=options)


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
