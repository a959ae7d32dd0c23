"""Check that a token trace is exact: prompt, sampled turns and observations, and nothing else.

Every id that the policy did not sample is rendered again from the messages and compared. Sampled ids must be at the
places that the turns name, decode to the text of their turn, and be masked. Observations have log-prob 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from PIL import Image

from agentfly.agents.trajectory import TokenTrace, Trajectory
from agentfly.errors import AgentFlyError
from agentfly.messages import Message
from agentfly.templates import ChatCodec

LoadImage = Callable[[str], Image.Image]


def check_trace(trajectory: Trajectory, codec: ChatCodec, load_image: LoadImage) -> None:
    """Prove the trace of one trajectory.

    Args:
        trajectory: with its messages, tools and turns as the rollout left them.
        codec: of the policy, with the template of the rollout.
        load_image: the image behind a handle.

    Raises:
        AgentFlyError: the first thing that does not hold, with the place where it fails.
    """
    try:
        trace = trajectory.tokens
        if trace is None:
            raise AgentFlyError("it is not token-exact: its backend works on messages")
        _check_arrays(trajectory, trace)
        _check_images(trajectory)
        prompt, observed = _messages(trajectory)
        _same("prompt", trace.prompt_ids, codec.prompt_ids(prompt, trajectory.tools, load_image))
        for index, messages in enumerate(observed):
            _check_turn(trajectory, trace, codec, load_image, index, messages)
    except AgentFlyError as fault:
        raise AgentFlyError(f"trajectory {trajectory.id}: {fault}") from fault


def closed(ids: Sequence[int], codec: ChatCodec) -> bool:
    """Whether sampled ids end with the end of the turn; else the observation begins with it."""
    return bool(ids) and ids[-1] in codec.eos_ids


def _check_arrays(trajectory: Trajectory, trace: TokenTrace) -> None:
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


def _check_images(trajectory: Trajectory) -> None:
    shown = [handle for message in trajectory.messages for handle in message.images]
    if shown != trajectory.images:
        raise AgentFlyError(f"images of the messages {shown} are not those of the trajectory {trajectory.images}")


def _messages(trajectory: Trajectory) -> tuple[list[Message], list[list[Message]]]:
    """The first prompt, and what follows each turn. The conversation may begin with turns of its own."""
    assistants = [i for i, message in enumerate(trajectory.messages) if message.role == "assistant"]
    turns = len(trajectory.turns)
    if len(assistants) < turns:
        raise AgentFlyError(f"{turns} turns, but {len(assistants)} messages of the assistant")
    places = assistants[len(assistants) - turns :]
    spans = pairwise([*places, len(trajectory.messages)])
    prompt = trajectory.messages[: places[0]] if places else trajectory.messages
    return list(prompt), [list(trajectory.messages[a + 1 : b]) for a, b in spans]


def _check_turn(
    trajectory: Trajectory,
    trace: TokenTrace,
    codec: ChatCodec,
    load_image: LoadImage,
    index: int,
    messages: Sequence[Message],
) -> None:
    """The text of one turn, and every id between it and the next one."""
    turn = trajectory.turns[index]
    following = trajectory.turns[index + 1 : index + 2]
    end = following[0].start if following else len(trace.response_ids)
    sampled = trace.response_ids[turn.start : turn.end]
    if codec.decode(sampled) != turn.text:
        raise AgentFlyError(f"turn {index}: the sampled ids are not its text {turn.text!r}")
    wanted: list[int] = []
    if messages:
        ends = closed(sampled, codec)
        wanted = codec.continuation_ids(messages, trajectory.tools, load_image, closed=ends)
    _same(f"observation of turn {index}", trace.response_ids[turn.end : end], wanted)


def _same(what: str, found: Sequence[int], wanted: Sequence[int]) -> None:
    if list(found) == list(wanted):
        return
    pairs = enumerate(zip(found, wanted, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    raise AgentFlyError(
        f"{what}: {len(found)} ids, the template gives {len(wanted)}; first difference at {first}: "
        f"{list(found[first : first + 4])} for {list(wanted[first : first + 4])}"
    )
