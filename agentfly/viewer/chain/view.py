"""What a chain's page shows of its trajectory line: task, turns, calls, observations and scores.

Everything in a line may come from a policy or from a damaged file, so nothing here trusts its types beyond those that
the reader of lines checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory
from agentfly.agents.trajectory_file import TrajectoryLine, first_messages
from agentfly.images.store import HANDLE
from agentfly.messages import ImagePart, Message, ToolCall
from agentfly.viewer.chain.scores import AuditView, RewardView, ScoreView, audit_of, reward_of, scores_of
from agentfly.viewer.chain.words import Cutter, Text, duration, finite, pretty

STOPS: Mapping[StopReason | None, str] = {
    None: "The chain did not end.",
    StopReason.ANSWERED: "The policy gave its answer.",
    StopReason.STOPPED: "A hook of the agent ended the chain.",
    StopReason.NO_TOOL_CALL: "The last turn called no tool.",
    StopReason.MAX_TURNS: "The limit of turns was reached.",
    StopReason.MAX_TOKENS: "The last turn was cut at its token limit.",
    StopReason.MAX_TOOL_CALLS: "The limit of tool calls was reached.",
    StopReason.CONTEXT_FULL: "The context was full.",
    StopReason.WALL_CLOCK: "The time of the chain was over.",
    StopReason.BACKEND_ERROR: "The backend failed.",
    StopReason.TOOL_OUTAGE: "The servers of a tool were out of order.",
    StopReason.ERROR: "A fault ended the chain.",
    StopReason.CANCELLED: "The chain was cancelled.",
}
_PROMPT_TEXT = 2400  # characters of a message before it is cut


@dataclass(frozen=True)
class Shot:
    """An image of a chain.

    Attributes:
        handle: in the images of the run.
        name: of the image in the chain, such as `img_1`; "" where it has none.
    """

    handle: str
    name: str = ""


@dataclass(frozen=True)
class Said:
    """A message.

    Attributes:
        role: of the speaker.
        parts: texts and images in their order.
        calls: the calls of an earlier turn, in words.
    """

    role: str
    parts: tuple[Text | Shot, ...]
    calls: tuple[Text, ...] = ()


@dataclass(frozen=True)
class CallView:
    """A tool call.

    Attributes:
        turn, number: place, from 1.
        name: of the tool, cut.
        arguments: names and values.
        engine, seconds: of the work; None for a time that is no number.
        error: observation of a call that failed.
        malformed, looks, cached: see `ToolRecord`.
        before, mask, after: the edited image, the area, and the result, where they are known.
        others: further images that the call gave, such as drawn boxes.
        data: further details of the result.
        observation: what the policy was shown; None where the chain ended before that.
        can_rerun: the call was read, so that it can be run again.
    """

    turn: int
    number: int
    name: str
    arguments: tuple[tuple[str, Text], ...]
    engine: str
    seconds: float | None
    error: Text | None
    malformed: bool
    looks: bool
    cached: bool
    before: Shot | None
    mask: Shot | None
    after: Shot | None
    others: tuple[Shot, ...]
    data: Text | None
    observation: Said | None

    @property
    def can_rerun(self) -> bool:
        """True for a call that could be read."""
        return not self.malformed

    @property
    def key(self) -> str:
        """Name of the call in a page."""
        return f"{self.turn}-{self.number}"


@dataclass(frozen=True)
class TurnView:
    """One generation of the policy and its calls.

    Attributes:
        number: from 1.
        text: as sampled.
        finish: reason for the end of the generation.
        seconds: of the generation; None for a time that is no number.
        prompt_tokens, sampled: numbers of tokens, 0 where they are not known.
        calls: in their order.
        asked: calls that the turn asked for; more than `calls` where a limit or a final call came between.
        credit: its part of the reward; None where the reward was not divided.
    """

    number: int
    text: Text
    finish: str
    seconds: float | None
    prompt_tokens: int
    sampled: int
    calls: tuple[CallView, ...]
    asked: int
    credit: float | None


@dataclass(frozen=True)
class ChainView:
    """A chain; see the parts.

    Attributes:
        id, group, task, task_type: names.
        instruction: the request.
        images: of the task, the one to edit first.
        target, mask: of the task, where they are known.
        prompt: the messages before the first turn.
        turns: one a generation.
        stop, stop_words: reason for the end, and a sentence about it.
        error, reward_error: faults in words.
        answer, final: words and image of the answer.
        scores: one an evaluator, without that of an audit.
        audit: None where the chain was not audited.
        reward: what the trainer learns from.
        seconds: of the chain.
        step, validate: of training.
        metadata: of the task, in JSON.
        long: whole texts by the keys of those that are cut.
    """

    id: str
    group: str
    task: str
    task_type: str
    instruction: Text
    images: tuple[Shot, ...]
    target: Shot | None
    mask: Shot | None
    prompt: tuple[Said, ...]
    turns: tuple[TurnView, ...]
    stop: str
    stop_words: str
    failed: bool
    error: Text | None
    reward_error: Text | None
    answer: Text | None
    final: Shot | None
    scores: tuple[ScoreView, ...]
    audit: AuditView | None
    reward: RewardView
    seconds: float | None
    step: int | None
    validate: bool | None
    metadata: Text | None
    long: tuple[str, ...]

    @property
    def calls(self) -> tuple[CallView, ...]:
        """All calls, in their order."""
        return tuple(call for turn in self.turns for call in turn.calls)

    @property
    def handles(self) -> tuple[str, ...]:
        """Handles of all images that the page shows."""
        shots = [*self.images, self.target, self.mask, self.final]
        shots += [part for said in self.prompt for part in said.parts if isinstance(part, Shot)]
        for call in self.calls:
            shots += [call.before, call.mask, call.after, *call.others]
            shots += [part for part in (call.observation.parts if call.observation else ()) if isinstance(part, Shot)]
        return tuple(dict.fromkeys(shot.handle for shot in shots if shot is not None))


def view_chain(line: TrajectoryLine, most: int | None = None) -> ChainView:
    """Return what a page shows of a chain.

    Args:
        line: of the chain.
        most: characters of a text before it is cut; the usual number when None.
    """
    t, task = line.trajectory, line.described_task()
    cut = Cutter() if most is None else Cutter(most)
    images = _Images(t)
    turns = tuple(_turns(line, images, cut))
    return ChainView(
        id=t.id,
        group=t.group_id,
        task=task.id,
        task_type=task.task_type,
        instruction=cut(task.instruction, max(cut.most, 1200)),
        images=tuple(images.shot(handle) for handle in task.images),
        target=images.given(task.target),
        mask=images.given(task.mask),
        prompt=tuple(_said(message, images, cut, _PROMPT_TEXT) for message in first_messages(t)),
        turns=turns,
        stop=t.stop_reason.value if t.stop_reason else "",
        stop_words=STOPS[t.stop_reason],
        failed=t.failed,
        error=cut(t.error) if t.error else None,
        reward_error=cut(t.reward_error) if t.reward_error else None,
        answer=cut(t.answer) if t.answer else None,
        final=images.given(t.final_image),
        scores=tuple(scores_of(line, cut)),
        audit=audit_of(line, cut),
        reward=reward_of(t.reward, t.reward_parts),
        seconds=duration(t.seconds),
        step=line.step,
        validate=line.validate,
        metadata=cut(pretty(task.metadata or t.metadata), 300) if task.metadata or t.metadata else None,
        long=tuple(cut.whole),
    )


class _Images:
    """The images of a chain by handle and by name."""

    def __init__(self, trajectory: Trajectory) -> None:
        # An image that an edit made again has a name of its own; the latest is the one that the policy was told.
        self.names = {handle: name for name, handle in trajectory.names.items()}
        self._handles: Mapping[str, object] = trajectory.names

    def shot(self, handle: str) -> Shot:
        return Shot(handle, self.names.get(handle, ""))

    def given(self, handle: object) -> Shot | None:
        return self.shot(handle) if isinstance(handle, str) and handle else None

    def found(self, value: object) -> Shot | None:
        """Return the image that a name or a sound handle means; None for anything else."""
        if not isinstance(value, str):
            return None
        handle = self._handles.get(value, value)
        return self.shot(handle) if isinstance(handle, str) and HANDLE.fullmatch(handle) else None

    def is_mask(self, shot: Shot) -> bool:
        return any(name.startswith("mask_") for name, handle in self._handles.items() if handle == shot.handle)


def _turns(line: TrajectoryLine, images: _Images, cut: Cutter) -> Iterator[TurnView]:
    trajectory = line.trajectory
    credit = line.credit if len(line.credit) == len(trajectory.turns) else ()
    spoken = trajectory.messages[len(first_messages(trajectory)) :]
    places = [place for place, message in enumerate(spoken) if message.role == "assistant"]
    for index, turn in enumerate(trajectory.turns):
        here = places[index] if index < len(places) else None
        following = places[index + 1] if index + 1 < len(places) else len(spoken)
        asked = () if here is None else spoken[here].tool_calls
        shown = [] if here is None else [m for m in spoken[here + 1 : following] if m.role == "tool"]
        observed = _observations(turn.tools, asked, shown)
        calls = tuple(
            _call(index + 1, number, record, observed[number - 1], images, cut)
            for number, record in enumerate(turn.tools, 1)
        )
        yield TurnView(
            index + 1,
            cut(turn.text, 4 * cut.most),
            turn.finish_reason[:40],
            duration(turn.seconds),
            turn.prompt_tokens,
            max(0, turn.end - turn.start) or turn.completion_tokens,
            calls,
            max(len(asked), len(calls)),
            finite(credit[index]) if credit else None,
        )


def _observations(
    records: Sequence[ToolRecord], asked: Sequence[ToolCall], shown: Sequence[Message]
) -> list[Message | None]:
    """Return the observation of each call: by the id of the call, else by their order."""
    by_id = {message.tool_call_id: message for message in shown if message.tool_call_id is not None}
    unique = len(by_id) == len(shown) and len({call.id for call in asked}) == len(asked)
    found: list[Message | None] = []
    for index in range(len(records)):
        known = by_id.get(asked[index].id) if unique and index < len(asked) else None
        found.append(known or (shown[index] if index < len(shown) else None))
    return found


def _call(turn: int, number: int, record: ToolRecord, shown: Message | None, images: _Images, cut: Cutter) -> CallView:
    given: object = record.arguments
    arguments = given if isinstance(given, Mapping) else {"": given}
    before, mask, after, others = _compared(record, arguments, images)
    known = {shot.handle for shot in (before, mask) if shot is not None}
    details = {name: value for name, value in record.data.items() if not (isinstance(value, str) and value in known)}
    return CallView(
        turn,
        number,
        cut(record.name, 80).shown,
        tuple((cut(str(name), 60).shown, cut(pretty(value))) for name, value in arguments.items()),
        cut(str(record.engine), 80).shown,
        duration(record.seconds),
        cut(str(record.error)) if record.error is not None else None,
        bool(record.malformed),
        bool(record.looks),
        bool(record.cached),
        before,
        mask,
        after,
        others,
        cut(pretty(details), 300) if details else None,
        None if shown is None else _said(shown, images, cut, cut.most),
    )


def _compared(
    record: ToolRecord, arguments: Mapping[str, object], images: _Images
) -> tuple[Shot | None, Shot | None, Shot | None, tuple[Shot, ...]]:
    """Return the image before a call, its mask, the image after it, and further images of its result."""
    named = [shot for value in arguments.values() if (shot := images.found(value)) is not None]
    before = images.found(record.data.get("source")) or next((s for s in named if not images.is_mask(s)), None)
    given = [images.shot(handle) for handle in record.images]
    masks = [shot for shot in given if images.is_mask(shot) and (record.looks or len(given) > 1)]
    mask = images.found(record.data.get("mask")) or next((s for s in named if images.is_mask(s)), None)
    mask = mask or next(iter(masks), None)
    made = [shot for shot in given if mask is None or shot.handle != mask.handle]
    after = made[-1] if made else None
    if after is None and record.error is None and images.found(record.data.get("source")) is not None:
        after = before  # an edit that changed nothing
    elif before is not None and after is not None and before.handle == after.handle:
        before = None  # an answer names the image that it gives
    return before, mask, after, tuple(shot for shot in made if shot != after)


def _said(message: Message, images: _Images, cut: Cutter, most: int) -> Said:
    parts: list[Text | Shot] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            parts.append(images.shot(part.handle))
        elif part.text:
            parts.append(cut(part.text, most))
    calls = tuple(cut(f"{call.name}({pretty(dict(call.arguments))})") for call in message.tool_calls)
    return Said(message.role, tuple(parts), calls)
