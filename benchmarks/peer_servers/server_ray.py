"""The same behind Ray Serve: a replica that makes batches of up to four with `@serve.batch`.

python server_ray.py CHECKPOINT PORT
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

FOLDER = str(Path(__file__).resolve().parent)
ATTEMPTS = 5
PATIENT = {
    # Ray gives its workers niceness 15: beside any other program they would get a thirtieth of a core.
    "RAY_worker_niceness": "0",
    # A process for each core that imports at once, and limits of its start that a busy machine breaks.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class Server:
    """One replica with the model."""

    def __init__(self, path: str) -> None:
        from server_pipeline import Pipeline

        self._pipeline = Pipeline(path)

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.01)  # type: ignore[untyped-decorator]
    async def edit(self, bodies: list[Any]) -> list[str]:
        """Edit the images of a batch."""
        return await asyncio.to_thread(self._pipeline.run, bodies)

    async def __call__(self, request: Request) -> Any:
        """Answer a request."""
        from server_pipeline import Edit

        if request.url.path == "/health":
            return {"status": "ok"}
        return {"image": await self.edit(Edit.model_validate_json(await request.body()))}


def start(variables: dict[str, str]) -> None:
    """Start Ray; again where one of its processes takes longer than Ray waits, which a busy machine makes it do.

    Args:
        variables: of the environment of its workers.
    """
    for attempt in range(ATTEMPTS):
        try:
            ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": variables}, log_to_driver=False)
            return
        except Exception:
            ray.shutdown()
            if attempt == ATTEMPTS - 1:
                raise


if __name__ == "__main__":
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for name, value in PATIENT.items():
        os.environ.setdefault(name, value)
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((FOLDER, os.environ.get("PYTHONPATH", "")))}
    start(variables)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}, logging_config={"log_level": "ERROR"})
    deployment: Any = Server
    serve.run(deployment.bind(sys.argv[1]))
    stop.wait()
    serve.shutdown()
    ray.shutdown()
