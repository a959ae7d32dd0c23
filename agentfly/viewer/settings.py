"""Settings of `agentfly view`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from agentfly.agents.spec import Named
from agentfly.serving.settings import ConnectionLimits
from agentfly.settings import Settings


class TrySettings(Settings):
    """Limits of the page Try.

    Attributes:
        upload_bytes: bytes of an uploaded file at most.
        max_pixels: width x height of an image at most.
        most_words: characters of an instruction at most.
        at_once: attempts that run at the same time.
        waiting: further ones that may wait for their turn.
        seconds: of one attempt, from its turn on.
        uploads: images that are kept until they are used; the oldest ones go first.
    """

    upload_bytes: int = Field(24 * 2**20, ge=1)
    max_pixels: int = Field(16_000_000, ge=1)
    most_words: int = Field(4000, ge=1)
    at_once: int = Field(2, ge=1)
    waiting: int = Field(8, ge=0)
    seconds: float = Field(600.0, gt=0)
    uploads: int = Field(64, ge=1)


class ViewerSettings(Settings):
    """Settings of the server.

    Attributes:
        host, port: address to listen on; port 0 takes a free one.
        first_seconds: seconds that a page may wait for the index of a new run; it then shows what is read so far.
        connections: limits of the connections.
        attempts: limits of the page Try.
        tokenizer: folder or `tokenizer.json` that turns token ids into text; that of the run's policy when None.
        engine: engines with which recorded calls are run again; the embedded ones, for runs that used them, when None.
        agent, tools: have the tools of calls that are run again, see `agentfly.agents.spec`; all tools of this package
            when None.
        rerun_seconds: time limit of a call that is run again.
    """

    written_as: ClassVar[str] = "--"

    host: str = "127.0.0.1"
    port: int = Field(8700, ge=0, le=65535)
    first_seconds: float = Field(0.5, gt=0)
    connections: ConnectionLimits = ConnectionLimits()
    attempts: TrySettings = TrySettings()
    tokenizer: str | None = None
    engine: str | Mapping[str, object] | None = None
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    rerun_seconds: float = Field(120.0, gt=0)
