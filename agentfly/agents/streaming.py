"""The typed events of a run.

A run is `RunStart`, the events of its chains, `RunEnd`. A chain is `ChainStart`, its turns, `ChainEnd`. A turn is
`TurnStart`, any number of `Delta`, `TurnEnd`, then for each tool call `ToolStart`, `ToolEnd` and `Observation`. Calls
that run at the same time start and end in any order; their observations come in the order of the calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from agentfly.agents.result import RunResult
    from agentfly.agents.trajectory import StopReason


@dataclass(frozen=True)
class RunStart:
    """A run begins.

    Attributes:
        chains: ids of all chains, in the order of the result.
        resumed: those that an earlier run with the same `log_dir` has finished; they have no further events.
    """

    kind: ClassVar[str] = "run_start"
    chains: tuple[str, ...]
    resumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunEnd:
    """A run is over; always the last event.

    Attributes:
        result: None when the run itself failed.
        error: the fault of the run itself, None without one. Chains that failed are in the result.
        seconds: of the run.
    """

    kind: ClassVar[str] = "run_end"
    result: RunResult | None = None
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class ChainStart:
    """A chain begins; `images` are its first images."""

    kind: ClassVar[str] = "chain_start"
    chain: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChainEnd:
    """A chain is over; `reward` is None where no reward function gave one."""

    kind: ClassVar[str] = "chain_end"
    chain: str
    stop_reason: StopReason
    seconds: float
    reward: float | None = None


@dataclass(frozen=True)
class TurnStart:
    """The policy is asked for turn number `turn`, from 0."""

    kind: ClassVar[str] = "turn_start"
    chain: str
    turn: int


@dataclass(frozen=True)
class Delta:
    """A piece of the text of a turn, as it comes."""

    kind: ClassVar[str] = "delta"
    chain: str
    turn: int
    text: str


@dataclass(frozen=True)
class TurnEnd:
    """A turn is generated; `text` is all of it."""

    kind: ClassVar[str] = "turn_end"
    chain: str
    turn: int
    text: str
    seconds: float


@dataclass(frozen=True)
class ToolStart:
    """A tool call begins; `call` is its number in the turn, from 0."""

    kind: ClassVar[str] = "tool_start"
    chain: str
    turn: int
    call: int
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolEnd:
    """A tool call is over; `error` is None when it went well."""

    kind: ClassVar[str] = "tool_end"
    chain: str
    turn: int
    call: int
    name: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Observation:
    """The observation that a tool call adds to the conversation: text, and images by their handles."""

    kind: ClassVar[str] = "observation"
    chain: str
    turn: int
    call: int
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class ErrorRaised:
    """Something failed: on a chain, or, with `chain` None, in the run itself."""

    kind: ClassVar[str] = "error"
    chain: str | None
    message: str


Event = (
    RunStart
    | RunEnd
    | ChainStart
    | ChainEnd
    | TurnStart
    | Delta
    | TurnEnd
    | ToolStart
    | ToolEnd
    | Observation
    | ErrorRaised
)
OnEvent = Callable[[Event], Awaitable[None]]
