"""The row of a chain from its line, without reading what the table does not show.

A line is mostly token ids and messages. msgspec skips them, which is several times as fast as making objects of them.
Lines that are not as they should be, such as those of version 0.1, are read by the module that writes lines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from agentfly.agents.trajectory import StopReason
from agentfly.agents.trajectory_file import AUDIT, FORMAT, TrajectoryLine
from agentfly.files import encodable

_MOST_TEXT = 2000  # characters of each text that can be searched for
_MOST_SHOWN = 500  # characters of an instruction in the table


class _Call(msgspec.Struct):
    name: str = ""
    error: str | None = None
    malformed: bool = False
    looks: bool = False


class _Turn(msgspec.Struct):
    text: str = ""
    finish_reason: str = ""
    tools: list[_Call] = []
    start: int = 0
    end: int = 0
    completion_tokens: int = 0
    began: float = 0.0


class _Task(msgspec.Struct):
    id: str
    instruction: str
    type: str = "edit"
    images: list[str] = []
    target: str | None = None


class _Trajectory(msgspec.Struct):
    id: str
    group_id: str
    turns: list[_Turn] = []
    images: list[str] = []
    stop_reason: str | None = None
    error: str | None = None
    final_image: str | None = None
    answer: str = ""
    seconds: float = 0.0
    score: float | None = None
    reward: float | None = None
    reward_error: str | None = None


class _Line(msgspec.Struct):
    format: str
    trajectory: _Trajectory
    task: _Task
    step: int | None = None
    validate: bool | None = None
    evaluations: dict[str, dict[str, Any]] = {}
    credit: list[float] | None = None


_DECODER = msgspec.json.Decoder(_Line, strict=False)


class ChainFacts(NamedTuple):
    """The columns of a chain that come from its line.

    See the attributes of `agentfly.viewer.index.query.Row`; `search` is the text that can be searched for, and `credit`
    has the reward of each turn and the tokens that it sampled, in JSON; "" where the reward was not divided.
    """

    key: str
    id: str
    group_id: str
    task: str
    task_type: str
    instruction: str
    step: int | None
    validate: int | None
    score: float | None
    reward: float | None
    stop: str
    turns: int
    calls: int
    looks: int
    errors: int
    tokens: int
    seconds: float
    began: float
    tools: str
    alarms: str
    source: str | None
    final: str | None
    target: str | None
    scorer: str
    credit: str
    search: str


def read_facts(line: bytes) -> ChainFacts:
    """Return the row of a line.

    Raises:
        ConfigError, ValueError, RecursionError: it is no trajectory.
    """
    try:
        found = _DECODER.decode(line)
        if found.format == FORMAT:
            return _storable(_facts(found, whole=bool(found.task.images)))
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # NaN, halves of surrogate pairs, a line without a task, version 0.1
    read = TrajectoryLine.from_dict(json.loads(line))
    task, t = read.described_task(), read.trajectory
    plain = {
        "format": FORMAT,
        "trajectory": {**t.to_dict(), "messages": [], "metadata": {}, "tokens": None},
        "task": {**task.to_dict(), "metadata": {}},
        "step": read.step,
        "validate": read.validate,
        "evaluations": {name: {"value": getattr(score, "value", None)} for name, score in read.scores.items()},
        "credit": [value for value in read.credit if math.isfinite(value)],
    }
    return _storable(_facts(msgspec.convert(encodable(plain), _Line, strict=False), whole=read.whole_task))


def alarms_of(trajectory: _Trajectory) -> list[str]:
    """Return the signs of trouble of a chain; `ALARMS` in `query` says what each means."""
    calls = [call for turn in trajectory.turns for call in turn.tools]
    failed = trajectory.stop_reason is None or StopReason(trajectory.stop_reason).failed
    signs = {
        "failed": failed,
        "malformed": any(call.malformed for call in calls),
        "tool_error": any(call.error is not None and not call.malformed for call in calls),
        "cut": any(turn.finish_reason == "length" for turn in trajectory.turns),
        "no_result": not failed and trajectory.final_image is None,
        "unscored": not failed and trajectory.score is None,
        "reward_error": trajectory.reward_error is not None,
    }
    return [name for name, there in signs.items() if there]


def _facts(line: _Line, *, whole: bool) -> ChainFacts:
    t, task = line.trajectory, line.task
    given = {name: value for name, found in line.evaluations.items() if (value := found.get("value")) is not None}
    if line.step is not None:
        given.pop(AUDIT, None)  # never the score of a chain; see `TrajectoryLine.headlines`
    if t.score is None:
        t.score = next(iter(given.values()), None)
    calls = [call for turn in t.turns for call in turn.tools]
    texts = [task.instruction, t.answer, t.error or "", *(turn.text for turn in t.turns)]
    return ChainFacts(
        key=task.id if whole else t.id,
        id=t.id,
        group_id=t.group_id,
        task=task.id,
        task_type=task.type,
        instruction=task.instruction[:_MOST_SHOWN],
        step=line.step,
        validate=None if line.validate is None else int(line.validate),
        score=_finite(t.score),
        reward=_finite(t.reward),
        stop=t.stop_reason or "",
        turns=len(t.turns),
        calls=len(calls),
        looks=sum(call.looks for call in calls),
        errors=sum(call.error is not None for call in calls),
        tokens=sum(turn.end - turn.start or turn.completion_tokens for turn in t.turns),
        seconds=_finite(t.seconds) or 0.0,
        began=_finite(t.turns[0].began) or 0.0 if t.turns else 0.0,
        tools=_words(dict.fromkeys(call.name for call in calls)),
        alarms=_words(dict.fromkeys(alarms_of(t))),
        source=next(iter(task.images or t.images), None),
        final=t.final_image,
        target=task.target,
        scorer=next((name for name, value in given.items() if value == t.score), ""),
        credit=_credit(line),
        search="\n".join(text[:_MOST_TEXT] for text in texts if text).casefold(),
    )


def _credit(line: _Line) -> str:
    turns = line.trajectory.turns
    if not line.credit or len(line.credit) != len(turns):
        return ""
    return json.dumps([(value, max(0, turn.end - turn.start)) for value, turn in zip(line.credit, turns, strict=True)])


def _storable(facts: ChainFacts) -> ChainFacts:
    """Return a row if SQLite, whose whole numbers have 64 bits, can hold it."""
    if max(abs(facts.step or 0), abs(facts.tokens)) >= 2**63:
        raise ValueError("it has a number that is too large")
    return facts


def _words(names: Mapping[str, None]) -> str:
    """Return names in one text, each between bars, so that one of them can be searched for."""
    return "".join(f"|{name.replace('|', '')[:100]}" for name in names) + "|" if names else ""


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
