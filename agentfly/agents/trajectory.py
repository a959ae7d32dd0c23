"""The record of one chain: messages, exact tokens, tool calls with times, stop reason and reward."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from agentfly.agents.token_check import LoadImage, TokenTrace, check_trace
from agentfly.images import handle_of
from agentfly.lenient_json import nested_deeper
from agentfly.messages import Message
from agentfly.templates import ChatCodec

# Deeper values could be written here, and not be read where the stack is higher.
_MAX_DEPTH = 200


class StopReason(StrEnum):
    """Reasons for the end of a chain; `agentfly.agents.rollout` has the order in which limits are checked."""

    ANSWERED = "answered"
    STOPPED = "stopped"
    NO_TOOL_CALL = "no_tool_call"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    MAX_TOOL_CALLS = "max_tool_calls"
    CONTEXT_FULL = "context_full"
    WALL_CLOCK = "wall_clock"
    BACKEND_ERROR = "backend_error"
    TOOL_OUTAGE = "tool_outage"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def failed(self) -> bool:
        """True when a fault or somebody outside stopped the chain, not the policy or a limit."""
        return self in (StopReason.BACKEND_ERROR, StopReason.TOOL_OUTAGE, StopReason.ERROR, StopReason.CANCELLED)


@dataclass(frozen=True)
class ToolRecord:
    """A tool call that was carried out.

    Attributes:
        name, arguments: of the call.
        seconds: wall-clock time of the call.
        engine: engine that did the work, "" for none.
        error: the observation when the call failed, else None.
        malformed: the call could not even be parsed.
        data: the machine-readable part of the result; an edit names its source image under "source".
        images: handles of its images; none when an edit changed nothing.
        began: start of the call, in seconds since 1970.
        looks: the tool only looks; not written where False, as in older lines.
        cached: a result of an engine or of a deterministic tool came from the tool cache; written as `looks` is.
    """

    name: str
    arguments: Mapping[str, Any]
    seconds: float
    engine: str = ""
    error: str | None = None
    malformed: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    began: float = 0.0
    looks: bool = False
    cached: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the call for JSON."""
        return {name: value for name, value in vars(self).items() if value or name not in ("looks", "cached")}


@dataclass(frozen=True)
class Turn:
    """One generation of the policy and its tool calls.

    Attributes:
        text: as sampled, special tokens left out.
        finish_reason: of the generation.
        seconds: of the generation.
        tools: calls carried out, in order.
        start, end: span of the sampled ids in `TokenTrace.response_ids`; equal when there are no tokens.
        prompt_tokens, completion_tokens: usage as the backend counts it, 0 where it does not.
        began: time of the request, in seconds since 1970.
    """

    text: str
    finish_reason: str
    seconds: float
    tools: tuple[ToolRecord, ...] = ()
    start: int = 0
    end: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began: float = 0.0


@dataclass
class Trajectory:
    """The complete record of one chain. Images are handles into the run's store.

    Attributes:
        id: unique; `group_id` is shared by the chains of one prompt.
        messages: the conversation, first prompt included.
        tools: schemas of the tools that the policy was told of, in OpenAI's form.
        turns: one a generation.
        images: handles of all images in the conversation, in placeholder order.
        names: the chain's own names (`img_1`, `mask_1`) of every image it can use, to handles.
        tokens: exact ids, None when the backend is message-level (then it is not token-exact).
        stop_reason: None while the chain runs.
        error: the fault, for stop reasons that are failures.
        final_image: handle of the answer, or of the last image that a tool made; None when nothing was made.
        answer: the words that came with the answer.
        score, aspects: of the evaluator (0 to 100), None before scoring.
        reward, reward_parts: the trainer learns from the reward; the parts are logged.
        reward_error: fault of the reward function; None when it gave a reward, or when there is no such function.
        metadata: of the task.
        repeat, seed: number of the attempt at its task, from 1, and the seed of the run, in an evaluation that attempts
            each task several times; not written elsewhere.
    """

    id: str
    group_id: str
    messages: list[Message]
    turns: list[Turn] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    tokens: TokenTrace | None = None
    stop_reason: StopReason | None = None
    error: str | None = None
    final_image: str | None = None
    answer: str = ""
    seconds: float = 0.0
    score: float | None = None
    aspects: dict[str, float] = field(default_factory=dict)
    reward: float | None = None
    reward_parts: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] = field(default_factory=list)
    reward_error: str | None = None
    repeat: int = 1
    seed: int | None = None

    @property
    def handles(self) -> set[str]:
        """Handles of all images that the trajectory names."""
        return {*self.names.values(), *self.images, *filter(None, [self.final_image])}

    @property
    def failed(self) -> bool:
        """True when the chain did not end, or a fault or somebody outside stopped it."""
        return self.stop_reason is None or self.stop_reason.failed

    @property
    def token_exact(self) -> bool:
        """True when the exact ids are known; a backend that works on messages has none."""
        return self.tokens is not None

    @property
    def tool_records(self) -> list[ToolRecord]:
        """All tool calls, in their order."""
        return [record for turn in self.turns for record in turn.tools]

    @property
    def answered(self) -> bool:
        """True when the chain ended with an answer."""
        return self.stop_reason is StopReason.ANSWERED

    def to_dict(self) -> dict[str, Any]:
        """Return the trajectory as an object that `json.dumps(…, default=plain)` writes and `from_dict` reads back.

        Metadata that JSON does not know is described: an image by its handle, bytes by their number.

        Raises:
            ValueError: metadata, the arguments of a call or the data of a result are nested too deeply to be read back.
        """
        calls = [call.arguments for message in self.messages for call in message.tool_calls]
        given = [value for record in self.tool_records for value in (record.arguments, record.data)]
        if any(nested_deeper(value, _MAX_DEPTH) for value in (self.metadata, *calls, *given)):
            raise ValueError(f"it holds a value that is nested more than {_MAX_DEPTH} deep")
        data = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if self.seed is None:
            del data["repeat"], data["seed"]
        data["messages"] = [message.to_dict() for message in self.messages]
        # Not `asdict`, whose copies of all arguments and results took half the time of a line.
        data["turns"] = [{**vars(turn), "tools": [record.to_dict() for record in turn.tools]} for turn in self.turns]
        data["tokens"] = None if self.tokens is None else vars(self.tokens)
        return data

    def to_json(self) -> str:
        """Return one line of JSON that `from_json` reads back equal."""
        return json.dumps(self.to_dict(), ensure_ascii=False, default=plain)

    @classmethod
    def from_json(cls, line: str) -> Trajectory:
        """Return the trajectory of a line that `to_json` made."""
        return cls.from_dict(json.loads(line))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trajectory:
        """Return the trajectory of a parsed JSON object."""
        data = dict(data)
        data["messages"] = [Message.from_dict(message) for message in data["messages"]]
        turns = []
        for turn in data["turns"]:
            records = (ToolRecord(**{**tool, "images": tuple(tool.get("images", ()))}) for tool in turn["tools"])
            turns.append(Turn(**{**turn, "tools": tuple(records)}))
        data["turns"] = turns
        data["tokens"] = TokenTrace(**data["tokens"]) if data["tokens"] is not None else None
        data["stop_reason"] = StopReason(data["stop_reason"]) if data["stop_reason"] is not None else None
        return cls(**data)

    def fail_unwritten(self, fault: Exception) -> None:
        """Become a failed chain, without the values that cannot be written: calls, scores and most metadata.

        Args:
            fault: of writing.
        """
        self.stop_reason, self.error = StopReason.ERROR, f"the chain cannot be written: {fault}"
        self.messages = [replace(message, tool_calls=()) for message in self.messages]
        self.turns = [replace(turn, tools=()) for turn in self.turns]
        self.metadata = {key: value for key, value in self.metadata.items() if isinstance(value, (str, int, float))}
        self.score = self.reward = None
        self.aspects, self.reward_parts, self.tools = {}, {}, []

    def check(self, codec: ChatCodec, load_image: LoadImage) -> None:
        """Check that the token trace is exact; see `agentfly.agents.token_check`.

        Raises:
            AgentFlyError: the first thing that does not hold.
        """
        check_trace(self, codec, load_image)


def plain(value: object) -> object:
    """Return a stand-in that JSON knows for a value that it does not know."""
    if isinstance(value, Image.Image):
        return handle_of(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return str(value) if isinstance(value, PurePath) else repr(value)
