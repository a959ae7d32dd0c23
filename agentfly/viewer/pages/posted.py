"""What pages send. A page of another site can have a browser post a form here, but no JSON with a header of its own."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from agentfly.serving.errors import RequestRefused
from agentfly.serving.request_data import parse_json, too_large

HEADER, VALUE = "x-agentfly", "view"
MOST_BYTES = 64 * 1024


def check_own_page(request: Request) -> None:
    """Check that a request comes from a page of this viewer; `Host` and `Origin` are checked before by the server.

    Raises:
        RequestRefused: it lacks the header that pages of other sites cannot send, or its browser names another site.
    """
    # A page of another port of this machine counts as the same site to the check of `Origin`, and not to browsers.
    site = request.headers.get("sec-fetch-site", "same-origin")
    if request.headers.get(HEADER) != VALUE or site != "same-origin":
        raise RequestRefused(
            "only pages of this viewer may send that: reload the page", status=403, code="not_own_page"
        )


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request.

    Args:
        request: of a page of this viewer.
        most: bytes.

    Raises:
        RequestRefused: it is larger, or comes from elsewhere.
    """
    check_own_page(request)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise too_large(most)
    return bytes(body)


async def posted_json(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request, for `Depends`.

    Raises:
        RequestRefused: it is none, is too large, or comes from elsewhere.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestRefused("the content type must be application/json", status=415, code="wrong_content_type")
    body = await read_body(request, MOST_BYTES)
    try:
        value = parse_json(body)
    except (ValueError, RecursionError) as fault:
        raise RequestRefused(f"the body is not JSON ({type(fault).__name__})", code="invalid_json") from fault
    if not isinstance(value, dict):
        raise RequestRefused("the body is no JSON object", code="invalid_json")
    return value
