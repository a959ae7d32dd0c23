"""Tools that are known only once a service was asked for them, such as those of a foreign server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from agentfly.images import ImageView
from agentfly.tools.decorator import Tool


class ToolSource(ABC):
    """The tools of a service: asked for once by an agent, bound to the images of each of its chains.

    An agent awaits `prepare` before its first chain, and `close` when it is closed itself.
    """

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the service for messages."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """True once the tools are known."""

    @abstractmethod
    async def prepare(self) -> None:
        """Ask for the tools, unless they are known.

        Raises:
            AgentFlyError: the service does not answer, or lists nothing that can be used.
        """

    @abstractmethod
    def tools(self, view: ImageView) -> Iterable[Tool]:
        """Return the tools on the images of one chain.

        Args:
            view: the images of the chain; new ones are added to it.

        Raises:
            ConfigError: `prepare` was not awaited.
        """

    @abstractmethod
    async def close(self) -> None:
        """Free what the source holds. Its tools stay known, and the next call opens it again."""
