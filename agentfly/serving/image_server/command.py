"""The command `agentfly serve-images`: its flags, and serving until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from pydantic import SecretStr, ValidationError

from agentfly.errors import ConfigError, one_line
from agentfly.serving.image_server.settings import ModelOptions, ModelType, ServerSettings, UploadLimits
from agentfly.vision.diffusion.settings import Offload
from agentfly.vision.model_runtime import DType

if TYPE_CHECKING:
    import uvicorn

    from agentfly.serving.image_server.workers.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

_TAKEN_AS_THEY_ARE = (
    "workers",
    "worker_slots",
    "host",
    "port",
    "max_queue",
    "max_requests_per_minute",
    "request_timeout",
    "shutdown_grace",
)


def make_parser(program: str = "agentfly serve-images") -> argparse.ArgumentParser:
    """The flags."""
    defaults, limits = ServerSettings(model_type="classical"), UploadLimits()
    parser = argparse.ArgumentParser(
        program, description="Serve an image model over HTTP.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model-type", required=True, choices=get_args(ModelType), help="which engine")
    add("--model-path", default="", help="folder or hub name; for custom, package.module:function")
    add("--masks", default=None, metavar="MODEL", help="SAM model for the outlines of detected objects (detect)")
    add("--gpu-ids", type=int, nargs="+", default=[], metavar="N", help="one worker for each of these GPUs")
    add("--device", default=None, help="device of the workers without --gpu-ids: cpu, or cuda for the first GPU")
    add("--workers", type=int, default=defaults.workers, help="workers without --gpu-ids")
    add("--worker-slots", type=int, default=0, help="requests that a worker holds at once; 0: by model type")
    add("--use-fast", action="store_true", help="Lightning LoRA, 8 steps (qwen)")
    add("--use-ultra-fast", action="store_true", help="Lightning LoRA, 4 steps (qwen)")
    add("--lora", default=None, help="folder or file of that LoRA, instead of the hub's")
    add(
        "--dtype",
        default=defaults.dtype,
        choices=get_args(DType),
        help="precision of the weights; auto: bfloat16 on a GPU",
    )
    add("--offload", default=defaults.offload, choices=get_args(Offload), help="move weights off the GPU between uses")
    add("--compile", action="store_true", help="compile the denoiser; the first request takes minutes")
    add("--area", type=int, default=None, help="pixels that the model works at; default: the model's own choice")
    add("--host", default=defaults.host, help="address to listen on")
    add("--port", type=int, default=defaults.port, help="port to listen on")
    add("--api-key-env", default=None, metavar="NAME", help="environment variable with the key that clients must send")
    add("--max-queue", type=int, default=defaults.max_queue, help="most requests that wait; further ones get 503")
    add(
        "--max-requests-per-minute",
        type=int,
        default=None,
        metavar="N",
        help="most requests of one client in 60 s; further ones get 429",
    )
    add("--request-timeout", type=float, default=defaults.request_timeout, help="seconds a request may take")
    add(
        "--shutdown-grace",
        type=float,
        default=defaults.shutdown_grace,
        help="seconds that requests have to finish after SIGTERM",
    )
    add("--max-body-mb", type=float, default=limits.body_bytes / 2**20, help="largest request, in MiB")
    add("--max-pixels", type=int, default=limits.pixels, help="most pixels of an image")
    add("--max-images", type=int, default=limits.images, help="most images in a request")
    add("--allow-urls", action="store_true", help="let requests name images by public http(s) address")
    add(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="least severe messages to log",
    )
    return parser


def settings_from(arguments: argparse.Namespace) -> ServerSettings:
    """Checked settings.

    Raises:
        ConfigError: a flag is out of range, flags do not fit together, or the variable of the key is not set.
    """
    if arguments.gpu_ids and (arguments.device or arguments.workers != 1):
        raise ConfigError("--gpu-ids starts a worker on each of these GPUs: leave out --device and --workers")
    try:
        limits = UploadLimits(
            body_bytes=int(arguments.max_body_mb * 2**20),
            pixels=arguments.max_pixels,
            total_pixels=2 * arguments.max_pixels,
            images=arguments.max_images,
            allow_urls=arguments.allow_urls,
        )
        return ServerSettings(
            **{name: getattr(arguments, name) for name in (*ModelOptions.model_fields, *_TAKEN_AS_THEY_ARE)},
            gpu_ids=tuple(arguments.gpu_ids),
            device=arguments.device or "cpu",
            api_key=_key(arguments.api_key_env),
            limits=limits,
        )
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        name = "--" + str(first["loc"][0]).replace("_", "-") + ": " if first["loc"] else ""
        raise ConfigError(f"{name}{first['msg'].removeprefix('Value error, ')}") from fault


def _key(variable: str | None) -> SecretStr | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(f"--api-key-env {variable}: the environment variable {variable} is not set")
    return SecretStr(key)


def main(arguments: Sequence[str] | None = None, program: str = "agentfly serve-images") -> None:
    """Serve until SIGTERM or SIGINT, and let running requests finish.

    Args:
        arguments: flags; those of the process by default.
        program: what the help calls it.
    """
    parsed = make_parser(program).parse_args(arguments)
    logging.basicConfig(level=parsed.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        serve(settings_from(parsed), parsed.log_level)
    except Exception as fault:
        if (told := one_line(fault)) is None:
            raise
        sys.exit(f"error: {told}")


def serve(settings: ServerSettings, log_level: str = "info") -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the engine cannot be loaded.
    """
    import uvicorn

    from agentfly.serving.image_server.http.app import create_app

    if settings.api_key is None and not _is_loopback(settings.host):
        logger.warning("anybody who reaches %s may use this server: set a key with --api-key-env", settings.host)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace)),
    )
    # uvicorn raises the signal again once everything is closed; an orderly end is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = uvicorn.Server(config)
    asyncio.run(_until_fatal(server, app.state.server.dispatcher))
    if app.state.server.dispatcher.fatal_message:
        raise ConfigError(app.state.server.dispatcher.fatal_message)


async def _until_fatal(server: uvicorn.Server, dispatcher: Dispatcher) -> None:
    """Serve, but not on without an engine: what could not be loaded once will not load by itself."""

    async def watch() -> None:
        await dispatcher.fatal.wait()
        server.should_exit = True

    watching = asyncio.create_task(watch())
    try:
        await server.serve()
    finally:
        watching.cancel()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
