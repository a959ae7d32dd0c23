"""The FastAPI application of the image server: its routes, its middleware, and its page `/docs`."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from agentfly import __version__
from agentfly.serving.image_server.errors import RequestError, RequestRefused
from agentfly.serving.image_server.http.body import DetectionFields, EditFields, GenerationFields
from agentfly.serving.image_server.http.endpoints import ImageServer
from agentfly.serving.image_server.http.guard import Guard, error_body
from agentfly.serving.image_server.settings import ServerSettings

_FILE: dict[str, object] = {"type": "string", "format": "binary"}
_TEXT: dict[str, object] = {"type": "string", "description": "base64 or a data URI"}


def create_app(settings: ServerSettings) -> FastAPI:
    """Return the application; its workers start and end with its lifespan."""
    server = ImageServer(settings)
    app = FastAPI(title="agentfly image server", version=__version__, lifespan=server.lifespan, redoc_url=None)
    app.state.server = server
    app.add_exception_handler(RequestError, _reply_with_error)
    app.add_exception_handler(HTTPException, _reply_with_error)
    app.add_middleware(Guard, settings=settings, metrics=server.dispatcher.metrics)
    app.get("/")(server.root)
    app.get("/health", response_model=None)(server.health)
    app.get("/v1/models")(server.models)
    app.get("/gpu/status")(server.gpu_status)
    app.get("/metrics", response_model=None)(server.metrics)
    editing = describe_body(EditFields, images=True, mask=True)
    app.post("/v1/images/edits", response_model=None, openapi_extra=editing)(server.edits)
    app.post("/v1/images/edits/upload", response_model=None, openapi_extra=editing)(server.upload)
    generating = describe_body(GenerationFields, images=False, mask=False)
    app.post("/v1/images/generations", response_model=None, openapi_extra=generating)(server.generations)
    detecting = describe_body(DetectionFields, images=True, mask=False)
    app.post("/v1/detections", response_model=None, openapi_extra=detecting)(server.detections)
    return app


async def _reply_with_error(_: Request, fault: Exception) -> Response:
    if isinstance(fault, HTTPException):
        fault = RequestRefused(str(fault.detail), status=fault.status_code)
    known = fault if isinstance(fault, RequestError) else RequestError("internal error")
    headers = {} if known.retry_after is None else {"Retry-After": str(known.retry_after)}
    return JSONResponse(error_body(known), known.status, headers)


def describe_body(fields: type[BaseModel], *, images: bool, mask: bool) -> dict[str, object]:
    """Return the `openapi_extra` of an endpoint. The endpoints read bodies themselves, so FastAPI cannot know them.

    Args:
        fields: of the endpoint, besides its images.
        images: True if it takes images; then its body may be JSON or a form.
        mask: True if it takes a mask.
    """
    schema = fields.model_json_schema()
    forms = {"application/json": _TEXT, **({"multipart/form-data": _FILE} if images else {})}
    names = [name for name, taken in (("image", images), ("mask", mask)) if taken]
    content = {
        kind: {
            "schema": {
                **schema,
                "properties": {**dict.fromkeys(names, image), **schema["properties"]},
                "required": ["prompt", "image"] if images else ["prompt"],
            }
        }
        for kind, image in forms.items()
    }
    return {"requestBody": {"required": True, "content": content}}
