"""The server process of `agentfly serve-images`: its settings from options, and serving until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pydantic import SecretStr

from agentfly.errors import ConfigError
from agentfly.redaction import read_key
from agentfly.serving.hosts import is_loopback
from agentfly.serving.image_server.settings import ServerSettings, UploadLimits
from agentfly.serving.settings import ConnectionLimits

if TYPE_CHECKING:
    import uvicorn

    from agentfly.serving.image_server.workers.dispatcher import Dispatcher

logger = logging.getLogger(__name__)


def read_settings(
    options: Mapping[str, object],
    *,
    device: str | None = None,
    api_key_env: str | None = None,
    max_body_mb: float,
    max_pixels: int,
    max_images: int,
    allow_urls: bool = False,
    allowed_hosts: Sequence[str] = (),
) -> ServerSettings:
    """Return the checked settings of a server.

    Args:
        options: fields of `ServerSettings` besides those below.
        device: of the workers; None for the CPU, or where `gpu_ids` are given.
        api_key_env: environment variable with the key that clients must send; None lets everybody in.
        max_body_mb: size of the largest request, in MiB.
        max_pixels: most pixels of an image; all images of a request may have twice as many together.
        max_images, allow_urls: see `UploadLimits`.
        allowed_hosts: see `AllowedHosts`.

    Raises:
        ConfigError: an option is out of range or does not fit the others, or the variable of the key is not set.
    """
    if options.get("gpu_ids") and (device or options.get("workers", 1) != 1):
        raise ConfigError("--gpu-ids starts a worker on each of these GPUs: leave out --device and --workers")
    key = None if api_key_env is None else read_key(api_key_env)
    if api_key_env is not None and not key:
        raise ConfigError(f"--api-key-env {api_key_env}: the environment variable {api_key_env} is not set")
    limits = _read_limits(max_body_mb, max_pixels, max_images, allow_urls)
    connections = ConnectionLimits(allowed_hosts=tuple(allowed_hosts))
    return ServerSettings(
        **options, device=device or "cpu", api_key=key and SecretStr(key), limits=limits, connections=connections
    )


def _read_limits(max_body_mb: float, max_pixels: int, max_images: int, allow_urls: bool) -> UploadLimits:
    # The fields have other names and units than the options, so wrong options are refused in their own words.
    if not 0.001 <= max_body_mb <= 1_000_000:
        raise ConfigError("--max-body-mb: give a number of MiB from 0.001 to 1000000")
    for name, most in (("--max-pixels", max_pixels), ("--max-images", max_images)):
        if most < 1:
            raise ConfigError(f"{name}: Input should be greater than or equal to 1")
    return UploadLimits(
        body_bytes=int(max_body_mb * 2**20),
        images=max_images,
        pixels=max_pixels,
        total_pixels=2 * max_pixels,
        # A few of the largest requests fit together, whatever the operator allows.
        memory_bytes=max(2**30, int(6 * max_body_mb * 2**20), 32 * max_pixels),
        allow_urls=allow_urls,
    )


def serve(settings: ServerSettings, log_level: str = "info") -> None:
    """Serve until SIGTERM or SIGINT, and let running requests finish.

    Args:
        settings: of the server.
        log_level: least severe messages of the HTTP server to log.

    Raises:
        ConfigError: the engine cannot be loaded, or the port is taken.
        MissingExtraError: prometheus_client is not installed.
    """
    from agentfly.serving.http_server import check_port, make_server
    from agentfly.serving.image_server.http.app import count_refusal, create_app

    if settings.api_key is None and not is_loopback(settings.host):
        logger.warning("anybody who reaches %s may use this server: set a key with --api-key-env", settings.host)
    check_port(settings.host, settings.port)
    app = create_app(settings)
    dispatcher: Dispatcher = app.state.server.dispatcher
    server = make_server(
        app,
        settings.host,
        settings.port,
        settings.connections,
        partial(count_refusal, dispatcher.metrics),
        log_level=log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace)),
    )
    # uvicorn raises the signal again once everything is closed; an orderly end is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(_serve_until_fatal(server, dispatcher))
    if dispatcher.fatal_message:
        raise ConfigError(dispatcher.fatal_message)


async def _serve_until_fatal(server: uvicorn.Server, dispatcher: Dispatcher) -> None:
    """Serve, and stop when the first engine cannot be loaded: another attempt would end in the same way."""

    async def stop_when_fatal() -> None:
        await dispatcher.fatal.wait()
        server.should_exit = True

    watching = asyncio.create_task(stop_when_fatal())
    try:
        await server.serve()
    finally:
        watching.cancel()
