"""The exact ids of a chain, and the check that they are exact: prompt, sampled turns, observations, and nothing else.

The check renders every id that the policy did not sample from the messages again and compares. Sampled ids must be at
the places that the turns name, decode to the text of their turn, and be masked. Observations have log-prob 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from PIL import Image

from agentfly.errors import AgentFlyError
from agentfly.messages import Message
from agentfly.templates import ChatCodec

LoadImage = Callable[[str], Image.Image]


@dataclass
class TokenTrace:
    """Exact ids of a chain: the first prompt, then sampled ids and observation ids as they came.

    Attributes:
        prompt_ids: ids before the first sampled token, placeholders of images expanded.
        response_ids: everything after.
        mask: 1 where `response_ids` was sampled, 0 where it is an observation. Same length.
        logprobs: log-prob of each sampled id, 0.0 on observations. Same length.
    """

    prompt_ids: list[int]
    response_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """Return the whole sequence."""
        return self.prompt_ids + self.response_ids

    def add_sampled(self, ids: Sequence[int], logprobs: Sequence[float] | None) -> tuple[int, int]:
        """Append sampled ids and return their span."""
        start = len(self.response_ids)
        self.response_ids += ids
        self.mask += [1] * len(ids)
        self.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)
        return start, len(self.response_ids)

    def add_observation(self, ids: Sequence[int]) -> None:
        """Append ids that the policy did not sample."""
        self.response_ids += ids
        self.mask += [0] * len(ids)
        self.logprobs += [0.0] * len(ids)


class SampledTurn(Protocol):
    """The part of `Turn` that is checked."""

    @property
    def text(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


class TracedChain(Protocol):
    """The part of `Trajectory` that is checked."""

    id: str
    messages: list[Message]
    images: list[str]
    tools: list[dict[str, Any]]
    tokens: TokenTrace | None

    @property
    def turns(self) -> Sequence[SampledTurn]: ...


def check_trace(trajectory: TracedChain, codec: ChatCodec, load_image: LoadImage) -> None:
    """Check the trace of one trajectory.

    Args:
        trajectory: with its messages, tools and turns as the rollout left them.
        codec: of the policy, with the template of the rollout.
        load_image: returns the image of a handle.

    Raises:
        AgentFlyError: the first thing that does not hold, and its place.
    """
    try:
        trace = trajectory.tokens
        if trace is None:
            raise AgentFlyError("it is not token-exact: its backend works on messages")
        _check_arrays(trajectory, trace)
        shown = [handle for message in trajectory.messages for handle in message.images]
        if shown != trajectory.images:
            raise AgentFlyError(f"images of the messages {shown} are not those of the trajectory {trajectory.images}")
        prompt, observations = _split_messages(trajectory)
        _check_equal("prompt", trace.prompt_ids, codec.prompt_ids(prompt, trajectory.tools, load_image))
        seen = sum(len(message.images) for message in prompt)
        for index, messages in enumerate(observations):
            _check_turn(trajectory, trace, codec, load_image, index, messages, seen)
            seen += sum(len(message.images) for message in messages)
    except AgentFlyError as fault:
        raise AgentFlyError(f"trajectory {trajectory.id}: {fault}") from fault


def _check_arrays(trajectory: TracedChain, trace: TokenTrace) -> None:
    size = len(trace.response_ids)
    if not size == len(trace.mask) == len(trace.logprobs):
        raise AgentFlyError(f"{size} ids, {len(trace.mask)} mask, {len(trace.logprobs)} log-probs")
    if not trajectory.turns and size:
        raise AgentFlyError(f"{size} ids after the prompt, but no turn")
    if trajectory.turns and trajectory.turns[0].start != 0:
        raise AgentFlyError(f"the first turn begins at {trajectory.turns[0].start}, not right after the prompt")
    ends = [0, *(edge for turn in trajectory.turns for edge in (turn.start, turn.end)), size]
    if any(a > b for a, b in pairwise(ends)):
        raise AgentFlyError(f"the spans of the turns overlap or leave the sequence: {ends[1:-1]} of {size}")
    sampled = [0] * size
    for turn in trajectory.turns:
        sampled[turn.start : turn.end] = [1] * (turn.end - turn.start)
    if sampled != trace.mask:
        raise AgentFlyError("the mask does not cover exactly the sampled turns")
    wrong = [i for i, (m, value) in enumerate(zip(trace.mask, trace.logprobs, strict=True)) if not m and value != 0.0]
    if wrong:
        raise AgentFlyError(f"the observation has a log-prob at {wrong[0]}: it must be 0")


def _split_messages(trajectory: TracedChain) -> tuple[list[Message], list[list[Message]]]:
    """Return the first prompt, and the messages after each turn. The prompt may hold turns of its own."""
    assistants = [i for i, message in enumerate(trajectory.messages) if message.role == "assistant"]
    turns = len(trajectory.turns)
    if len(assistants) < turns:
        raise AgentFlyError(f"{turns} turns, but {len(assistants)} messages of the assistant")
    places = assistants[len(assistants) - turns :]
    spans = pairwise([*places, len(trajectory.messages)])
    prompt = trajectory.messages[: places[0]] if places else trajectory.messages
    return list(prompt), [list(trajectory.messages[a + 1 : b]) for a, b in spans]


def _check_turn(
    trajectory: TracedChain,
    trace: TokenTrace,
    codec: ChatCodec,
    load_image: LoadImage,
    index: int,
    messages: Sequence[Message],
    images_before: int,
) -> None:
    """Check the text of one turn, and every id between it and the next one."""
    turn = trajectory.turns[index]
    following = trajectory.turns[index + 1 : index + 2]
    end = following[0].start if following else len(trace.response_ids)
    sampled = trace.response_ids[turn.start : turn.end]
    if codec.decode(sampled) != turn.text:
        raise AgentFlyError(f"turn {index}: the sampled ids are not its text {turn.text!r}")
    wanted: list[int] = []
    if messages:
        ended_by = codec.end_of(sampled)
        wanted = codec.continuation_ids(
            messages, trajectory.tools, load_image, ended_by=ended_by, images_before=images_before
        )
    elif following:
        # The answer to a thought that its limit has closed is a turn of its own.
        wanted = codec.closing_ids
    _check_equal(f"observation of turn {index}", trace.response_ids[turn.end : end], wanted)


def _check_equal(what: str, found: Sequence[int], wanted: Sequence[int]) -> None:
    if list(found) == list(wanted):
        return
    pairs = enumerate(zip(found, wanted, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    raise AgentFlyError(
        f"{what}: {len(found)} ids, the template gives {len(wanted)}; first difference at {first}: "
        f"{list(found[first : first + 4])} for {list(wanted[first : first + 4])}"
    )
