"""Settings of `agentfly view`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from agentfly.agents.spec import Named
from agentfly.serving.settings import ConnectionLimits
from agentfly.settings import Settings


class ViewerSettings(Settings):
    """Settings of the server.

    Attributes:
        host, port: address to listen on; port 0 takes a free one.
        first_seconds: seconds that a page may wait for the index of a new run; it then shows what is read so far.
        connections: limits of the connections.
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
    tokenizer: str | None = None
    engine: str | Mapping[str, object] | None = None
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    rerun_seconds: float = Field(120.0, gt=0)
