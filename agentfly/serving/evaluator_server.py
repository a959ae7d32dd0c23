"""A small server for one evaluator, for scorers whose packages conflict with those of training.

    python -m agentfly.serving.evaluator_server --evaluator my_scorer:make --port 8100

`POST /v1/evaluate` takes what `agentfly.evaluators.http_schema` describes. 422 is "not scored" with the reason,
503 asks the client to try again. Images come as bytes in the body; the server opens no path and no URL.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentfly.errors import AgentFlyError, ConfigError, EvaluatorError, ImageError
from agentfly.evaluators import Evaluator, GuardedEvaluator, GuardSettings, PassingFault, make_evaluator
from agentfly.evaluators.guarded import checked
from agentfly.evaluators.http_schema import PATH, SampleBody, ScoreBody, from_body
from agentfly.images import ImageLimits

logger = logging.getLogger(__name__)


class EvaluatorServerSettings(BaseModel):
    """Limits of the server.

    Attributes:
        in_flight: evaluations at once.
        max_queue: requests that wait for their turn beside those; more are answered 503.
        timeout: seconds for one evaluation.
        max_bytes: bytes of a request at most.
        max_pixels: pixels of an image at most.
        api_key_env: environment variable with the key that clients must send; without it the server is open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_flight: int = Field(4, ge=1)
    max_queue: int = Field(256, ge=0)
    timeout: float = Field(300.0, gt=0)
    max_bytes: int = Field(64 * 1024 * 1024, gt=0)
    max_pixels: int = Field(16_000_000, gt=0)
    api_key_env: str = "AGENTFLY_EVALUATOR_KEY"


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Host:
    """The evaluator and the requests that wait for it."""

    def __init__(self, evaluator: Evaluator, settings: EvaluatorServerSettings) -> None:
        # Trying again is the client's affair: it knows how long it can wait.
        guard = GuardSettings(in_flight=settings.in_flight, timeout=settings.timeout, attempts=1)
        self.evaluator = GuardedEvaluator(evaluator, guard)
        self.settings = settings
        self.key = os.environ.get(settings.api_key_env, "")
        self.waiting = 0
        self.limits = ImageLimits(
            max_pixels=settings.max_pixels, max_bytes=settings.max_bytes, allow_files=False, allow_private_hosts=False
        )

    async def evaluate(self, request: Request) -> ScoreBody:
        """The score of a request."""
        self._admit(request)
        self.waiting += 1
        try:
            sample = await asyncio.to_thread(self._sample, await self._body(request))
            score = checked(await self.evaluator.evaluate(sample))
            return ScoreBody(value=score.value, feedback=score.feedback, aspects=dict(score.aspects))
        finally:
            self.waiting -= 1

    def _admit(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode(), self.key.encode()):
            raise _Refused(401, "wrong or missing key: send it as a bearer token")
        if self.waiting >= self.settings.in_flight + self.settings.max_queue:
            raise _Refused(503, "too many requests wait: come again later")

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.settings.max_bytes:
                raise _Refused(413, f"the body has more than {self.settings.max_bytes} bytes")
            parts.append(part)
        return b"".join(parts)

    def _sample(self, body: bytes) -> Any:
        try:
            return from_body(SampleBody.model_validate(json.loads(body)), self.limits)
        except ValidationError as fault:
            places = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors(include_input=False))
            raise _Refused(400, f"the body is no sample: {places}") from fault
        except ImageError as fault:
            raise _Refused(400, str(fault)) from fault
        except (ValueError, RecursionError) as fault:
            raise _Refused(400, "the body is no JSON") from fault


def create_app(evaluator: Evaluator, settings: EvaluatorServerSettings | None = None) -> FastAPI:
    """The application that hosts an evaluator."""
    host = _Host(evaluator, settings or EvaluatorServerSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await host.evaluator.close()

    app = FastAPI(title="agentfly evaluator", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "evaluator": type(evaluator).__name__, "waiting": host.waiting}

    @app.post(PATH, response_model=None)
    async def evaluate(request: Request) -> JSONResponse:
        try:
            return JSONResponse((await host.evaluate(request)).model_dump())
        except _Refused as fault:
            return _error(fault.status, str(fault))
        except Exception as fault:
            return _error(*_status(fault))

    return app


def _status(fault: Exception) -> tuple[int, str]:
    """What a failed evaluation is to the client."""
    cause = fault.__cause__
    if isinstance(fault, PassingFault) or isinstance(cause, PassingFault):
        return 503, str(fault)
    if isinstance(fault, EvaluatorError):
        return 422, str(fault)
    # A wrong setting or a bug: the words are for whoever runs the server.
    logger.error("the evaluator failed", exc_info=fault)
    return 500, f"the evaluator failed ({type(fault).__name__}): see the server's log"


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m agentfly.serving.evaluator_server", description="Host an evaluator."
    )
    parser.add_argument("--evaluator", required=True, help="a name, settings as JSON, or your own as module:name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--in-flight", type=int, default=4, help="most evaluations at the same time")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    sys.path.insert(0, os.getcwd())
    try:
        evaluator = make_evaluator(_spec(given.evaluator))
        settings = EvaluatorServerSettings(in_flight=given.in_flight)
    except (AgentFlyError, ValidationError) as fault:
        logger.error("%s", fault)
        return 2
    import uvicorn

    uvicorn.run(create_app(evaluator, settings), host=given.host, port=given.port, log_level="info")
    return 0


def _spec(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as fault:
        raise ConfigError(f"--evaluator is no JSON: {fault}") from fault


if __name__ == "__main__":
    raise SystemExit(main())
