"""The settings of an operator, checked at the start of the server."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from agentfly.agents.spec import Named
from agentfly.serving.settings import ConnectionLimits
from agentfly.settings import Settings


class SessionLimits(Settings):
    """Limits of what clients bring in, keep and get.

    Attributes:
        pixels: width x height of one image, from its header.
        body_bytes: bytes of one request over HTTP, and of one image file.
        allow_urls: fetch images from http(s) addresses; never from addresses that are not public.
        url_seconds: seconds for such a download, redirects included.
        images: images that one session can name, those that it forgot included.
        session_bytes: bytes of decoded images that one session keeps. Beyond that it forgets those that were not used
            for longest.
        memory_bytes: the same of all sessions together.
        sessions: sessions at once, over HTTP.
        idle_seconds: seconds without a request after which a session over HTTP ends.
        preview_side: longest side in pixels of an image in a result; a larger one is shown smaller, and whole as a
            resource.
        calls: calls that are worked on at once.
        queue: calls that wait.
        call_seconds: seconds for one call, waiting included.
    """

    written_as: ClassVar[str] = "--"

    pixels: int = Field(32_000_000, ge=1)
    body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    allow_urls: bool = False
    url_seconds: float = Field(20.0, gt=0)
    images: int = Field(10_000, ge=1)
    session_bytes: int = Field(512 * 1024 * 1024, ge=1)
    memory_bytes: int = Field(2 * 1024 * 1024 * 1024, ge=1)
    sessions: int = Field(256, ge=1)
    idle_seconds: float = Field(1800.0, gt=0, allow_inf_nan=False)
    preview_side: int = Field(1024, ge=16)
    calls: int = Field(4, ge=1)
    queue: int = Field(64, ge=0)
    call_seconds: float = Field(600.0, gt=0, allow_inf_nan=False)


class McpServerSettings(Settings):
    """Settings of one server.

    Attributes:
        agent, tools: see `agentfly.agents.spec`. Tools that end a chain are left out.
        root: folders from which images may be opened by path.
        out: folder into which images may be saved; None for none.
        transport: "stdio" for one client that starts the server, "http" for several.
        host, port: address to listen on, over HTTP.
        api_key: that clients must send as `Authorization: Bearer ...`, over HTTP; None lets everybody in.
        limits: of sessions.
        connections: of the connections, over HTTP.
    """

    written_as: ClassVar[str] = "--"

    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    root: tuple[Path, ...] = ()
    out: Path | None = None
    transport: Literal["stdio", "http"] = "stdio"
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    limits: SessionLimits = SessionLimits()
    connections: ConnectionLimits = ConnectionLimits()

    @field_validator("root")
    @classmethod
    def _are_folders(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        for folder in folders:
            if not folder.expanduser().is_dir():
                raise ValueError(f"there is no folder {str(folder)!r}")
        # Links are followed once, here: what they point to later does not count.
        return tuple(folder.expanduser().resolve() for folder in folders)

    @field_validator("out")
    @classmethod
    def _is_made(cls, out: Path | None) -> Path | None:
        if out is None:
            return None
        try:
            out.expanduser().mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise ValueError(f"the folder {str(out)!r} cannot be made: {fault.strerror}") from fault
        return out.expanduser().resolve()
