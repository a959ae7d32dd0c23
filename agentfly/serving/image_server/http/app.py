"""The FastAPI application of the image server: its routes, its middleware, and the form of its errors."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from agentfly import __version__
from agentfly.serving.image_server.errors import RequestError, RequestRefused
from agentfly.serving.image_server.http.endpoints import ImageServer
from agentfly.serving.image_server.http.fields import DetectionFields, EditFields, GenerationFields
from agentfly.serving.image_server.http.guard import Guard, error_body
from agentfly.serving.image_server.http.reference import describe
from agentfly.serving.image_server.settings import ServerSettings


async def _request_error(_: Request, fault: Exception) -> Response:
    known = fault if isinstance(fault, RequestError) else RequestError("internal error")
    headers = {} if known.retry_after is None else {"Retry-After": str(known.retry_after)}
    return JSONResponse(error_body(known), known.status, headers)


async def _http_error(request: Request, fault: Exception) -> Response:
    known = fault if isinstance(fault, HTTPException) else HTTPException(500)
    return await _request_error(request, RequestRefused(str(known.detail), status=known.status_code))


def create_app(settings: ServerSettings) -> FastAPI:
    """The application; its workers start and end with its lifespan.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """
    server = ImageServer(settings)
    app = FastAPI(title="agentfly image server", version=__version__, lifespan=server.lifespan, redoc_url=None)
    app.state.server = server
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Guard, settings=settings, counters=server.dispatcher.counters)
    app.get("/")(server.root)
    app.get("/health", response_model=None)(server.health)
    app.get("/v1/models")(server.models)
    app.get("/gpu/status")(server.gpu_status)
    app.get("/metrics", response_model=None)(server.metrics)
    editing = describe(EditFields, images=True, mask=True)
    app.post("/v1/images/edits", response_model=None, openapi_extra=editing)(server.edits)
    app.post("/v1/images/edits/upload", response_model=None, openapi_extra=editing)(server.upload)
    generating = describe(GenerationFields, images=False, mask=False)
    app.post("/v1/images/generations", response_model=None, openapi_extra=generating)(server.generations)
    detecting = describe(DetectionFields, images=True, mask=False)
    app.post("/v1/detections", response_model=None, openapi_extra=detecting)(server.detections)
    return app
