"""Columns of an exported trajectory: a line of `trajectories.jsonl` as a row of a table, and back.

Images are in the row. Those of the conversation are in `images`, in the order of their placeholders, and an image part
of a message holds its place in that list: the form of vision data sets for `transformers` and TRL. Values whose shape
differs from row to row (metadata, arguments, schemas) are JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

from PIL import Image

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.token_check import TokenTrace
from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.evaluation.hub.secrets import SecretFilter
from agentfly.evaluators import NotScored, Score
from agentfly.images import ImageStore, encode_image
from agentfly.messages import ImagePart, Message, TextPart, ToolCall, check_role

if TYPE_CHECKING:
    import datasets

# Smaller than the fastest compression by a quarter, and still quick.
_COMPRESSION = 3
_TURN = tuple(entry.name for entry in fields(Turn) if entry.name != "tools")
_CALL = tuple(entry.name for entry in fields(ToolRecord))
Packed = Mapping[str, object]


def trajectory_features(*, tokens: bool = True) -> datasets.Features:
    """Return the types of the columns.

    Args:
        tokens: with the columns of ids, mask and log-probs.
    """
    from datasets import Features, Image, List, Value

    text, real, integer = Value("string"), Value("float64"), Value("int64")
    part = {"type": text, "text": text, "image": Value("int32")}
    call = {"id": text, "name": text, "arguments": text, "error": text}
    message = {"role": text, "content": List(part), "tool_calls": List(call), "tool_call_id": text}
    named = List({"name": text, "value": real})
    evaluation = {"evaluator": text, "value": real, "feedback": text, "aspects": named, "not_scored": text}
    trace = {"prompt_ids": List(integer), "response_ids": List(integer), "mask": List(Value("int8"))}
    chain = {"id": text, "group": text, "step": integer, "validate": Value("bool"), "model": text}
    task = {"task_id": text, "instruction": text, "task_type": text, "metadata": text}
    task_images = {"source_images": List(Image()), "target": Image(), "mask": Image()}
    outcome = {"result": Image(), "answer": text, "stop_reason": text, "error": text}
    scores = {"score": real, "aspects": named, "evaluations": List(evaluation)}
    reward = {"reward": real, "reward_parts": named, "reward_error": text}
    return Features(
        {
            **chain,
            **task,
            **task_images,
            "messages": List(message),
            "images": List(Image()),
            **outcome,
            **scores,
            **reward,
            "turns": List(_dataclass_features(Turn, _TURN)),
            "tool_calls": List({"turn": Value("int32"), **_dataclass_features(ToolRecord, _CALL)}),
            "tools": text,
            "names": text,
            "unshown_images": List(Image()),
            "chain_metadata": text,
            "seconds": real,
            **({"tokens": {**trace, "logprobs": List(real)}} if tokens else {}),
        }
    )


def _dataclass_features(kind: type, names: Iterable[str]) -> dict[str, Any]:
    from datasets import List, Value

    # What is not named here is a mapping, and JSON text in its column.
    kinds = {str: Value("string"), float: Value("float64"), int: Value("int64"), bool: Value("bool")}
    kinds |= {tuple[str, ...]: List(Value("string"))}
    hints = get_type_hints(kind)
    return {name: kinds.get(hints[name], Value("string")) for name in names}


def row_of(
    line: TrajectoryLine, store: ImageStore, model: str, secrets: SecretFilter, *, tokens: bool = True
) -> dict[str, object]:
    """Return the row of a line, without the keys of services. A chain that spoke one has no tokens: they spell it.

    Args:
        line: of the file.
        store: the images that the line names.
        model: name of the policy, "" where it is not known.
        secrets: cleans the texts.
        tokens: with ids, mask and log-probs where they are recorded.

    Raises:
        ImageError: an image is missing or damaged.
    """
    trajectory, task, pack = line.trajectory, line.described_task(), _Packer(store)
    secrets.found = False
    messages = _messages(trajectory.messages, secrets)
    turns = [{name: secrets.value(getattr(turn, name)) for name in _TURN} for turn in trajectory.turns]
    spelled = secrets.found
    shown = [handle for message in trajectory.messages for handle in message.images]
    known = {*shown, *task.images, *filter(None, (task.target, task.mask, trajectory.final_image))}
    return {
        "step": line.step,
        "validate": line.validate,
        "model": model,
        "task_id": secrets.text(task.id),
        "instruction": secrets.text(task.instruction),
        "task_type": secrets.text(task.task_type),
        "metadata": secrets.json(task.metadata),
        "source_images": pack.all(task.images),
        "target": pack.maybe(task.target),
        "mask": pack.maybe(task.mask),
        "messages": messages,
        "images": pack.all(shown),
        "result": pack.maybe(trajectory.final_image),
        "unshown_images": pack.all(sorted(trajectory.handles - known)),
        "turns": turns,
        **_chain_columns(trajectory, secrets),
        "evaluations": [_evaluation(name, score, secrets) for name, score in line.scores.items()],
        **({"tokens": vars(trajectory.tokens) if trajectory.tokens and not spelled else None} if tokens else {}),
    }


def _chain_columns(trajectory: Trajectory, secrets: SecretFilter) -> dict[str, object]:
    return {
        "id": secrets.text(trajectory.id),
        "group": secrets.text(trajectory.group_id),
        "answer": secrets.text(trajectory.answer),
        "stop_reason": trajectory.stop_reason,
        "error": secrets.maybe(trajectory.error),
        "score": trajectory.score,
        "aspects": _named(trajectory.aspects, secrets),
        "reward": trajectory.reward,
        "reward_parts": _named(trajectory.reward_parts, secrets),
        "reward_error": secrets.maybe(trajectory.reward_error),
        "tool_calls": [
            {"turn": number, **_record(record, secrets)}
            for number, turn in enumerate(trajectory.turns)
            for record in turn.tools
        ],
        "tools": secrets.json(trajectory.tools, by_name=False),
        "names": secrets.json(trajectory.names, by_name=False),
        "chain_metadata": secrets.json(trajectory.metadata),
        "seconds": trajectory.seconds,
    }


class _Packer:
    """Encodes the images of one row, each once."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._packed: dict[str, Packed] = {}

    def __call__(self, handle: str) -> Packed:
        if handle not in self._packed:
            content = encode_image(self._store.get(handle), compress_level=_COMPRESSION)
            # `datasets` would take a path for a file of this machine.
            self._packed[handle] = {"bytes": content, "path": None}
        return self._packed[handle]

    def all(self, handles: Iterable[str]) -> list[Packed]:
        return [self(handle) for handle in handles]

    def maybe(self, handle: str | None) -> Packed | None:
        return None if handle is None else self(handle)


def _messages(messages: Sequence[Message], secrets: SecretFilter) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    images = 0
    for message in messages:
        content: list[dict[str, object]] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": secrets.text(part.text), "image": None})
            else:
                content.append({"type": "image", "text": None, "image": images})
                images += 1
        calls = [
            {
                "id": secrets.text(call.id),
                "name": secrets.text(call.name),
                "arguments": secrets.json(call.arguments),
                "error": secrets.maybe(call.error),
            }
            for call in message.tool_calls
        ]
        call_id = secrets.maybe(message.tool_call_id)
        rows.append({"role": message.role, "content": content, "tool_calls": calls, "tool_call_id": call_id})
    return rows


def _record(record: ToolRecord, secrets: SecretFilter) -> dict[str, object]:
    values = {name: getattr(record, name) for name in _CALL}
    return {
        name: secrets.json(value) if isinstance(value, Mapping) else secrets.value(value)
        for name, value in values.items()
    }


def _evaluation(name: str, score: Score | NotScored, secrets: SecretFilter) -> dict[str, object]:
    row: dict[str, object] = {"evaluator": secrets.text(name), "value": None, "feedback": None}
    if isinstance(score, NotScored):
        return {**row, "aspects": [], "not_scored": secrets.text(score.reason)}
    aspects = _named(score.aspects, secrets)
    return {
        **row,
        "value": score.value,
        "feedback": secrets.text(score.feedback),
        "aspects": aspects,
        "not_scored": None,
    }


def _named(values: Mapping[str, float], secrets: SecretFilter) -> list[dict[str, object]]:
    return [{"name": secrets.text(name), "value": value} for name, value in values.items()]


def _by_name(values: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    return {entry["name"]: entry["value"] for entry in values}


def line_of(row: Mapping[str, Any], store: ImageStore) -> TrajectoryLine:
    """Return the line of a row of the data set, and put its images into a store.

    Usage of judges, credit and the fingerprint are not in the row; texts are as the export cleaned them.

    Args:
        row: as `datasets.load_dataset` gives it, images decoded.
        store: gets the images of the chain and of its task.
    """

    def put(images: Sequence[Image.Image]) -> tuple[str, ...]:
        return tuple(store.put(image) for image in images)

    def maybe(image: Image.Image | None) -> str | None:
        return None if image is None else store.put(image)

    shown = put(row["images"])
    put(row["unshown_images"])
    task = TaskFacts(
        row["task_id"],
        row["instruction"],
        row["task_type"],
        put(row["source_images"]),
        maybe(row["target"]),
        maybe(row["mask"]),
        json.loads(row["metadata"]),
    )
    trajectory = _read_trajectory(row, shown, maybe(row["result"]))
    return TrajectoryLine(trajectory, task, _read_scores(row), step=row["step"], validate=row["validate"])


def _read_trajectory(row: Mapping[str, Any], shown: tuple[str, ...], result: str | None) -> Trajectory:
    return Trajectory(
        id=row["id"],
        group_id=row["group"],
        messages=[_read_message(message, shown) for message in row["messages"]],
        turns=_read_turns(row),
        images=list(shown),
        names=json.loads(row["names"]),
        tokens=None if row.get("tokens") is None else TokenTrace(**row["tokens"]),
        stop_reason=None if row["stop_reason"] is None else StopReason(row["stop_reason"]),
        final_image=result,
        aspects=_by_name(row["aspects"]),
        reward_parts=_by_name(row["reward_parts"]),
        metadata=json.loads(row["chain_metadata"]),
        tools=json.loads(row["tools"]),
        **{name: row[name] for name in ("error", "answer", "seconds", "score", "reward", "reward_error")},
    )


def _read_scores(row: Mapping[str, Any]) -> dict[str, Score | NotScored]:
    return {
        entry["evaluator"]: NotScored(entry["not_scored"])
        if entry["value"] is None
        else Score(entry["value"], entry["feedback"], _by_name(entry["aspects"]))
        for entry in row["evaluations"]
    }


def _read_message(row: Mapping[str, Any], shown: Sequence[str]) -> Message:
    parts = tuple(
        TextPart(part["text"]) if part["type"] == "text" else ImagePart(shown[part["image"]]) for part in row["content"]
    )
    calls = tuple(ToolCall(**{**call, "arguments": json.loads(call["arguments"])}) for call in row["tool_calls"])
    return Message(check_role(row["role"]), parts, calls, row["tool_call_id"])


def _read_turns(row: Mapping[str, Any]) -> list[Turn]:
    records: list[list[ToolRecord]] = [[] for _ in row["turns"]]
    hints = get_type_hints(ToolRecord)
    readers: dict[object, Callable[[Any], Any]] = {Mapping[str, Any]: json.loads, tuple[str, ...]: tuple}
    for call in row["tool_calls"]:
        # Exports of earlier versions lack the newest fields.
        values = {name: readers.get(hints[name], _same)(call[name]) for name in _CALL if name in call}
        records[call["turn"]].append(ToolRecord(**values))
    return [Turn(**turn, tools=tuple(made)) for turn, made in zip(row["turns"], records, strict=True)]


def _same(value: Any) -> Any:
    return value
