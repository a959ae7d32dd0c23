"""A server of one evaluator, for scorers whose packages conflict with those of training.

    python -m agentfly.serving.evaluator_server --evaluator my_scorer:make --port 8100

`POST /v1/evaluate` takes the body that `agentfly.evaluators.http_schema` describes. 422 means "not scored" and has the
reason; 503 asks the client to try again. Images come as bytes in the body: the server opens no path and no URL.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated

import typer
from fastapi import FastAPI, HTTPException, Request
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect

from agentfly.errors import AgentFlyError, EvaluatorError, ImageError, require
from agentfly.evaluators import EditSample, Evaluator, GuardedEvaluator, GuardSettings, PassingFault, make_evaluator
from agentfly.evaluators.guarded import checked
from agentfly.evaluators.http_schema import PATH, SampleBody, ScoreBody, from_body
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
        self.evaluator = GuardedEvaluator(evaluator, guard)
        self.settings = settings
        self.key = read_key(settings.api_key_env) or ""
        self.waiting = 0
        self.memory = RequestMemory(settings.memory_bytes)
        self.limits = ImageLimits(
            max_pixels=settings.max_pixels, max_bytes=settings.max_bytes, allow_files=False, allow_private_hosts=False
        )

    async def evaluate(self, request: Request) -> ScoreBody:
        """Return the score of a request.

        Raises:
            HTTPException: the key is wrong, too many requests wait, or the body is no sample.
            RequestError: the body came too slowly, or there is no memory for it.
            EvaluatorError: the sample could not be scored.
        """
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode(), self.key.encode()):
            raise HTTPException(401, "wrong or missing key: send it as a bearer token")
        if self.waiting >= self.settings.in_flight + self.settings.max_queue:
            raise HTTPException(503, "too many requests wait: come again later")
        self.waiting += 1
        try:
            with HeldMemory(self.memory) as held:
                sample = await self._receive(request, held)
                score = checked(await self.evaluator.evaluate(sample))
            return ScoreBody(value=score.value, feedback=score.feedback, aspects=dict(score.aspects))
        finally:
            self.waiting -= 1

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

    @app.get("/health")
    async def health() -> dict[str, str | int]:
        return {"status": "ok", "evaluator": type(evaluator).__name__, "waiting": host.waiting}

    @app.post(PATH, response_model=None)
    async def evaluate(request: Request) -> AsciiJSON:
        try:
            return AsciiJSON((await host.evaluate(request)).model_dump())
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

    return app


def _error(status: int, message: str) -> AsciiJSON:
    return AsciiJSON({"error": {"message": message}}, status)


app = typer.Typer(add_completion=False)


class HostCommand(ListOptionsCommand):
    """A command whose `--allowed-hosts` takes several names."""

    list_options = MappingProxyType({"--allowed-hosts": ANY_VALUE})


@app.command(cls=HostCommand)
def host_evaluator(
    evaluator: Annotated[
        str, typer.Option(help="Evaluator: a name, its settings as JSON, or one of your own as module:name.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8100,
    in_flight: Annotated[int, typer.Option(help="Most evaluations at the same time.")] = 4,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Further names of this server, as for agentfly serve-images."),
    ] = None,
) -> None:
    """Host an evaluator over HTTP. Exit code 2: it cannot be hosted."""
    sys.path.insert(0, os.getcwd())
    try:
        hosted = make_evaluator(json.loads(evaluator) if evaluator.lstrip().startswith("{") else evaluator)
        settings = EvaluatorServerSettings(in_flight=in_flight)
        connections = ConnectionLimits(allowed_hosts=tuple(allowed_hosts or ()))
        require("httptools", "the evaluator server", "serve")
    except json.JSONDecodeError as fault:
        logger.error("--evaluator is no JSON: %s", fault)
        raise typer.Exit(2) from fault
    except AgentFlyError as fault:
        logger.error("%s", fault)
        raise typer.Exit(2) from fault
    from agentfly.serving.http_server import make_server

    if not read_key(settings.api_key_env) and not is_loopback(host):
        logger.warning(
            "anybody who reaches %s may use this server: export %s with a key, or give --host 127.0.0.1",
            host,
            settings.api_key_env,
        )
    server = make_server(create_app(hosted, settings), host, port, connections, log_level="info")
    server.run()
    if not server.started:
        raise typer.Exit(2)


if __name__ == "__main__":
    log_to_stderr(logging.INFO, "%(levelname)s %(name)s: %(message)s")
    app(prog_name="python -m agentfly.serving.evaluator_server")
