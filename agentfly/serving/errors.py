"""The errors of requests, each with its HTTP status."""

from __future__ import annotations

import json

from starlette.responses import JSONResponse

from agentfly.errors import AgentFlyError


class AsciiJSON(JSONResponse):
    """JSON in ASCII: what clients send, and replies repeat, may have halves of surrogate pairs, which UTF-8 has not."""

    def render(self, content: object) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_response(fault: RequestError) -> AsciiJSON:
    """Return an error in OpenAI's form."""
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if fault.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if fault.status == 408:
        # The rest of the body is not waited for.
        headers["Connection"] = "close"
    error = {"message": str(fault), "type": fault.kind, "param": fault.param, "code": fault.code}
    return AsciiJSON({"error": error}, fault.status, headers)


class RequestError(AgentFlyError):
    """A request that ends without a result.

    Attributes:
        status: HTTP status.
        kind: `error.type` of the reply, one of OpenAI's.
        code: `error.code`, for programs.
        param: name of the wrong field; None where no field is wrong.
        retry_after: seconds until another attempt makes sense; None where it is not known.
    """

    kind = "server_error"
    status = 500
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code = status or self.status, code or self.code
        self.param, self.retry_after = param, retry_after


class RequestRefused(RequestError):
    """The request is wrong, or the engine cannot do it: sending it again does not help."""

    kind = "invalid_request_error"
    status = 400


class ServerFault(RequestError):
    """The server failed; the same request may succeed later, or at another server."""


class QueueFull(ServerFault):
    """The queue has no room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"the queue is full: try again in {retry_after} s", status=503, code="queue_full", retry_after=retry_after
        )


class TooManyRequests(RequestError):
    """The client has sent more requests in the last minute than the server allows."""

    kind = "rate_limit_error"

    def __init__(self, per_minute: int, retry_after: int) -> None:
        super().__init__(
            f"a client may send {per_minute} requests a minute to this server: try again in {retry_after} s",
            status=429,
            code="rate_limit_exceeded",
            retry_after=retry_after,
        )


class DeadlineExceeded(ServerFault):
    """The request took longer than it may."""

    status = 504
    code = "deadline_exceeded"
