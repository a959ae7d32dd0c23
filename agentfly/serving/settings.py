"""The limits of connections, which are the same for every server here."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from agentfly.settings import Settings


class ConnectionLimits(Settings):
    """Limits of the connections of a server, whatever is sent over them.

    Attributes:
        allowed_hosts: see `AllowedHosts`.
        connections: most connections at once. No more than half of the files that the process may open are connections.
        header_seconds: seconds for the headers of a request: from the connection on, or from the first byte of a
            further request.
        body_seconds: seconds for the body of a request. `body_rate` bytes that have come give one second more.
        body_rate: bytes a second of a body that is not too slow.
        send_seconds: seconds after which a client that reads nothing of its reply is cut off.
    """

    written_as: ClassVar[str] = "--"

    allowed_hosts: tuple[str, ...] = ()
    connections: int = Field(4096, ge=1)
    header_seconds: float = Field(20.0, gt=0)
    body_seconds: float = Field(20.0, gt=0)
    body_rate: int = Field(1024, ge=1)
    send_seconds: float = Field(60.0, gt=0)

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            wrong = not name or any(char in "/:, " for char in name) or "*" in name.removeprefix("*.")
            if wrong and name != "*":
                raise ValueError("give names without scheme and port: images.example, *.example or *")
        return names
