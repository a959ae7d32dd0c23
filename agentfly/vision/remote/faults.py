"""How an attempt on a node can end without a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfly.errors import EngineUnavailable, ToolError, ToolOutage

if TYPE_CHECKING:
    from agentfly.vision.remote.node import Node


class NotOffered(Exception):
    """No node that answers does this operation."""


class AttemptFault(Exception):
    """Another attempt may succeed."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(f"{node.url}: {reason}")
        self.node, self.reason = node, reason


class Busy(AttemptFault):
    """The node has no room; it says when to come back."""

    def __init__(self, node: Node, retry_after: float) -> None:
        super().__init__(node, "busy")
        self.retry_after = retry_after


class Failed(AttemptFault):
    """The node gave no usable answer.

    Attributes:
        away: there was nobody to connect to, so the request itself is not to blame.
    """

    def __init__(self, node: Node, reason: str, *, away: bool = False) -> None:
        super().__init__(node, reason)
        self.away = away


class Refused(ToolError):
    """The engine of a server refused the request; what it said is for the model."""


class CannotDo(Refused, EngineUnavailable):
    """The engine of a server cannot do this kind of thing at all."""


class Unanswered(ToolOutage):
    """No server answered in time, or none can be reached."""
