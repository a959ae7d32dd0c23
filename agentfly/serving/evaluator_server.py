"""A server of one evaluator, for scorers whose packages conflict with those of training.

    agentfly serve-evaluator my_scorer:make --port 8100

`POST /v1/evaluate` takes the body that `agentfly.evaluators.http_schema` describes. 422 means "not scored" and has the
reason; 503 asks the client to try again. Images come as bytes in the body: the server opens no path and no URL.
`POST /v1/sleep` and `/v1/wake` have a learned reward leave its device, and take it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated

import typer
from fastapi import FastAPI, HTTPException, Request
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect

from agentfly.errors import AgentFlyError, EvaluatorError, ImageError, require
from agentfly.evaluators import (
    EditSample,
    Evaluator,
    GuardedEvaluator,
    GuardSettings,
    PassingFault,
    make_evaluator,
    sleep_evaluator,
    wake_evaluator,
)
from agentfly.evaluators.base import can_sleep
from agentfly.evaluators.guarded import checked
from agentfly.evaluators.http_schema import (
    FORMAT,
    HEALTH_PATH,
    PATH,
    SCHEMA_PATH,
    SLEEP_PATH,
    WAKE_PATH,
    SampleBody,
    ScoreBody,
    from_body,
    json_schema,
)
from agentfly.images import ImageLimits
from agentfly.list_options import ANY_VALUE, ListOptionsCommand
from agentfly.redaction import log_to_stderr, read_key
from agentfly.serving.errors import AsciiJSON, RequestError, RequestRefused, error_response
from agentfly.serving.hosts import is_loopback
from agentfly.serving.request_data import HeldMemory, RequestMemory, parse_json
from agentfly.serving.settings import ConnectionLimits
from agentfly.settings import Settings

logger = logging.getLogger(__name__)


class EvaluatorServerSettings(Settings):
    """Limits of the server.

    Attributes:
        in_flight: most evaluations at the same time.
        max_queue: most requests that wait besides those; further ones get 503.
        timeout: seconds for one evaluation, and for the body of a request.
        max_bytes: most bytes of a request.
        max_pixels: most pixels of an image.
        memory_bytes: most bytes of the bodies and decoded images of all requests together.
        api_key_env: environment variable with the key that clients must send; without it the server is open.
    """

    in_flight: int = Field(4, ge=1)
    max_queue: int = Field(256, ge=0)
    timeout: float = Field(300.0, gt=0)
    max_bytes: int = Field(64 * 1024 * 1024, gt=0)
    max_pixels: int = Field(16_000_000, gt=0)
    memory_bytes: int = Field(4 * 1024 * 1024 * 1024, gt=0)
    api_key_env: str = "AGENTFLY_EVALUATOR_KEY"


class _Host:
    """The evaluator and the requests that wait for it."""

    def __init__(self, evaluator: Evaluator, settings: EvaluatorServerSettings) -> None:
        # The client tries again, as it alone knows how long it can wait.
        guard = GuardSettings(in_flight=settings.in_flight, timeout=settings.timeout, attempts=1)
        self.hosted = evaluator
        self.evaluator = GuardedEvaluator(evaluator, guard)
        self.settings = settings
        self.asleep = False
        self.key = read_key(settings.api_key_env) or ""
        self.waiting = 0
        self.memory = RequestMemory(settings.memory_bytes)
        self.limits = ImageLimits(
            max_pixels=settings.max_pixels, max_bytes=settings.max_bytes, allow_files=False, allow_private_hosts=False
        )

    async def evaluate(self, request: Request) -> dict[str, object]:
        """Return the score of a request as the body of the reply.

        Raises:
            HTTPException: the key is wrong, too many requests wait, or the body is no sample.
            RequestError: the body came too slowly, or there is no memory for it.
            EvaluatorError: the sample could not be scored.
        """
        self._check_key(request)
        if self.waiting >= self.settings.in_flight + self.settings.max_queue:
            raise HTTPException(503, "too many requests wait: come again later")
        self.waiting += 1
        try:
            with HeldMemory(self.memory) as held:
                sample = await self._receive(request, held)
                score = checked(await self.evaluator.evaluate(sample))
            return ScoreBody(value=score.value, feedback=score.feedback, aspects=dict(score.aspects)).model_dump()
        finally:
            self.waiting -= 1

    async def tell(self, request: Request, *, asleep: bool) -> dict[str, object]:
        """Have the model of the evaluator sleep, or wake it, and return the body of the reply.

        Raises:
            HTTPException: the key is wrong, the evaluator has no model, or it took too long.
        """
        self._check_key(request)
        try:
            async with asyncio.timeout(self.settings.timeout):
                has_model = await (sleep_evaluator if asleep else wake_evaluator)(self.hosted)
        except TimeoutError as fault:
            raise HTTPException(503, f"it took longer than {self.settings.timeout:g} s") from fault
        if not has_model:
            raise HTTPException(409, "this evaluator has no model that could sleep")
        self.asleep = asleep
        return {"asleep": asleep}

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode(), self.key.encode()):
            raise HTTPException(401, "wrong or missing key: send it as a bearer token")

    async def _receive(self, request: Request, held: HeldMemory) -> EditSample:
        """Return the sample of a request, and hold the memory of its images."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.timeout):
                async for part in request.stream():
                    held.take(len(part))
                    body += part
                    if len(body) > self.settings.max_bytes:
                        raise HTTPException(413, f"the body has more than {self.settings.max_bytes} bytes")
        except TimeoutError as fault:
            raise RequestRefused(f"the body did not come within {self.settings.timeout:g} s", status=408) from fault
        sample = await asyncio.to_thread(self._read_sample, body, held)
        held.take(-len(body))
        return sample

    def _read_sample(self, body: bytearray, held: HeldMemory) -> EditSample:
        limits = replace(self.limits, hold=held.take)
        try:
            # The texts, and of one of them the digits, the digits without spaces, and the bytes.
            with held.during(4 * len(body)):
                return from_body(SampleBody.model_validate(parse_json(body)), limits)
        except ValidationError as fault:
            places = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors(include_input=False))
            raise HTTPException(400, f"the body is no sample: {places}") from fault
        except ImageError as fault:
            raise HTTPException(400, str(fault)) from fault
        except (ValueError, RecursionError) as fault:
            raise HTTPException(400, "the body is no JSON") from fault


def create_app(evaluator: Evaluator, settings: EvaluatorServerSettings | None = None) -> FastAPI:
    """Return the application that hosts an evaluator.

    Args:
        evaluator: closed when the application ends.
        settings: limits of the server; None for the defaults.
    """
    host = _Host(evaluator, settings or EvaluatorServerSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await host.evaluator.close()

    app = FastAPI(title="agentfly evaluator", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.get(HEALTH_PATH)
    async def health() -> dict[str, str | int | bool]:
        about = {"format": FORMAT, "evaluator": type(evaluator).__name__}
        nap = {"asleep": host.asleep, "can_sleep": can_sleep(evaluator)}
        return {"status": "ok", **about, "waiting": host.waiting, **nap}

    @app.get(SCHEMA_PATH)
    async def schema() -> dict[str, object]:
        return json_schema()

    @app.post(PATH, response_model=None)
    async def evaluate(request: Request) -> AsciiJSON:
        return await _answered(lambda: host.evaluate(request))

    @app.post(SLEEP_PATH, response_model=None)
    async def sleep(request: Request) -> AsciiJSON:
        return await _answered(lambda: host.tell(request, asleep=True))

    @app.post(WAKE_PATH, response_model=None)
    async def wake(request: Request) -> AsciiJSON:
        return await _answered(lambda: host.tell(request, asleep=False))

    return app


async def _answered(work: Callable[[], Awaitable[dict[str, object]]]) -> AsciiJSON:
    """Return the answer to a request, or its error with the status that tells the client what to do."""
    try:
        return AsciiJSON(await work())
    except HTTPException as fault:
        return _error(fault.status_code, fault.detail)
    except RequestError as fault:
        return error_response(fault)
    except ClientDisconnect:
        return _error(499, "the client hung up")
    except Exception as fault:
        if isinstance(fault, PassingFault) or isinstance(fault.__cause__, PassingFault):
            return _error(503, str(fault))
        if isinstance(fault, EvaluatorError):
            return _error(422, str(fault))
        # A wrong setting or a bug: its message is for the operator alone.
        logger.error("the evaluator failed", exc_info=fault)
        return _error(500, f"the evaluator failed ({type(fault).__name__}): see the server's log")


def _error(status: int, message: str) -> AsciiJSON:
    return AsciiJSON({"error": {"message": message}}, status)


app = typer.Typer(add_completion=False)


class HostCommand(ListOptionsCommand):
    """A command whose `--allowed-hosts` takes several names."""

    list_options = MappingProxyType({"--allowed-hosts": ANY_VALUE})


InFlight = Annotated[
    int | None,
    typer.Option(help="Most evaluations at the same time; default: 4, or two batches of a learned reward."),
]


@app.command(cls=HostCommand)
def host_evaluator(
    evaluator: Annotated[
        str, typer.Option(help="Evaluator: a name, its settings as JSON, or one of your own as module:name.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8100,
    in_flight: InFlight = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Further names of this server, as for agentfly serve-images."),
    ] = None,
) -> None:
    """Host an evaluator over HTTP. Exit code 2: it cannot be hosted."""
    sys.path.insert(0, os.getcwd())
    try:
        spec = json.loads(evaluator) if evaluator.lstrip().startswith("{") else evaluator
        started = serve(spec, host, port, in_flight, allowed_hosts or ())
    except json.JSONDecodeError as fault:
        logger.error("--evaluator is no JSON: %s", fault)
        raise typer.Exit(2) from fault
    except AgentFlyError as fault:
        logger.error("%s", fault)
        raise typer.Exit(2) from fault
    if not started:
        raise typer.Exit(2)


def serve(
    spec: str | dict[str, object], host: str, port: int, in_flight: int | None, allowed_hosts: Sequence[str]
) -> bool:
    """Host an evaluator over HTTP until the process is stopped; False if it could not listen.

    Args:
        spec: for `agentfly.evaluators.make_evaluator`.
        host, port: address to listen on.
        in_flight: evaluations at the same time at most; None for two batches, or 4.
        allowed_hosts: see `ConnectionLimits`.

    Raises:
        ConfigError: the evaluator or a setting is wrong.
    """
    hosted = make_evaluator(spec)
    # The next batch of a learned reward is received while one is scored.
    places = 2 * getattr(hosted, "batch_size", 2) if in_flight is None else in_flight
    settings = EvaluatorServerSettings(in_flight=places)
    connections = ConnectionLimits(allowed_hosts=tuple(allowed_hosts))
    require("httptools", "the evaluator server", "serve")
    from agentfly.serving.http_server import make_server

    if not read_key(settings.api_key_env) and not is_loopback(host):
        logger.warning(
            "anybody who reaches %s may use this server: export %s with a key, or give --host 127.0.0.1",
            host,
            settings.api_key_env,
        )
    server = make_server(create_app(hosted, settings), host, port, connections, log_level="info")
    # uvicorn logs why it cannot listen, and ends the process with a code of its own.
    with contextlib.suppress(SystemExit):
        server.run()
    return bool(server.started)


if __name__ == "__main__":
    log_to_stderr(logging.INFO, "%(levelname)s %(name)s: %(message)s")
    app(prog_name="python -m agentfly.serving.evaluator_server")
