"""Select trajectories to train on: read from any log, filtered by score, the best of each task, each only once.

A trajectory with token ids is trained on exactly those ids, with its own mask. This model's processor and template must
give the same ids for it, so that a log of another model is not used by mistake.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from agentfly.agents import Trajectory
from agentfly.errors import AgentFlyError, DatasetError
from agentfly.images import ImageStore
from agentfly.messages import Message
from agentfly.templates import ChatCodec
from agentfly.training.supervised.config import DataConfig
from agentfly.training.supervised.data.examples import IGNORED, LoadImage, Sample, conversation_ids
from agentfly.training.supervised.data.splits import task_key

IMAGE_FOLDERS = ("images", "pictures")


def trajectory_samples(config: DataConfig, codec: ChatCodec, counts: Counter[str]) -> list[Sample]:
    """Return the samples of all files.

    Args:
        config: files, and limits for what is kept.
        codec: of the model.
        counts: gets the number of trajectories, and of those that were left out, by reason.

    Raises:
        DatasetError: a file cannot be read, or recorded ids are not those of this model.
    """
    found: list[tuple[Trajectory, ImageStore]] = []
    for path in config.trajectories:
        store = ImageStore(_images(path, config.images))
        found += [(trajectory, store) for trajectory in _usable(path, store, config, counts)]
    kept = best(_distinct(found, counts), config.per_task)
    counts["beyond the best of their task"] += len(found) - counts["same as another"] - len(kept)
    return [trajectory_sample(t, codec, store.get, retokenise=config.retokenise) for t, store in kept]


def read_trajectories(path: Path) -> Iterator[tuple[Trajectory, bool]]:
    """Yield the trajectories of a JSONL file: bare lines, or lines that carry one under `trajectory`.

    Each comes with True if it is from a validation, as the lines of a training run say.

    Raises:
        DatasetError: a line cannot be read; a torn last line, which a killed run leaves, is skipped.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as fault:
        raise DatasetError(f"{path} cannot be read: {fault.strerror}") from fault
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            yield Trajectory.from_dict(entry.get("trajectory", entry)), entry.get("validate") is True
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            if number == len(lines):
                return
            raise DatasetError(f"{path}, line {number} is no trajectory: {fault!r}") from fault


def best(found: Sequence[tuple[Trajectory, ImageStore]], per_task: int | None) -> list[tuple[Trajectory, ImageStore]]:
    """Return the best trajectories of each task by score, in the order of `found`.

    Args:
        found: trajectories, each with the store of its images.
        per_task: number of trajectories that are kept of a task; None keeps all.
    """
    if per_task is None:
        return list(found)
    tasks: defaultdict[str, list[int]] = defaultdict(list)
    for index, (trajectory, _) in enumerate(found):
        tasks[task_key(_prompt(trajectory))].append(index)

    def rank(index: int) -> float:
        score = found[index][0].score
        return 1.0 if score is None else -score

    kept = {index for indices in tasks.values() for index in sorted(indices, key=rank)[:per_task]}
    return [pair for index, pair in enumerate(found) if index in kept]


def trajectory_sample(
    trajectory: Trajectory, codec: ChatCodec, load_image: LoadImage, *, retokenise: bool = False
) -> Sample:
    """Return a trajectory as a sample.

    Args:
        trajectory: with its turns.
        codec: of the model.
        load_image: loads the image of a handle.
        retokenise: make the ids from the messages, even if the trajectory has recorded ids.

    Raises:
        DatasetError: the recorded ids are not those of this model, or there are no turns.
    """
    task, tokens = task_key(_prompt(trajectory)), trajectory.tokens
    if tokens is None or retokenise:
        ids, labels, images = _rendered(trajectory, codec, load_image)
    else:
        try:
            trajectory.check(codec, load_image)
        except AgentFlyError as fault:
            raise DatasetError(
                f"{fault}. The ids were recorded with another model or template: give that one, or make new ids from "
                "the messages with data.retokenise=true"
            ) from fault
        labels = [IGNORED] * len(tokens.prompt_ids)
        labels += [i if graded else IGNORED for i, graded in zip(tokens.response_ids, tokens.mask, strict=True)]
        ids, images = tokens.ids, trajectory.images
    return Sample(np.array(ids, np.int32), np.array(labels, np.int32), tuple(images), codec, load_image, task)


def _rendered(
    trajectory: Trajectory, codec: ChatCodec, load_image: LoadImage
) -> tuple[list[int], list[int], list[str]]:
    spoken = [message for message in trajectory.messages if message.role == "assistant"]
    turns = trajectory.turns
    # A call that could not be parsed is only in the text, not in the message.
    texts = [
        turn.text if any(call.error for call in message.tool_calls) else codec.turn_text(message)
        for turn, message in zip(turns, spoken[len(spoken) - len(turns) :], strict=True)
    ]
    return conversation_ids(trajectory.messages, trajectory.tools, codec, load_image, texts)


def _images(path: Path, given: Path | None) -> Path | None:
    """Return the folder of the images of a file, None when there is none."""
    if given is not None:
        if not given.is_dir():
            raise DatasetError(f"data.images={given} is no folder")
        return given
    return next((path.parent / name for name in IMAGE_FOLDERS if (path.parent / name).is_dir()), None)


def _usable(path: Path, store: ImageStore, config: DataConfig, counts: Counter[str]) -> Iterator[Trajectory]:
    for trajectory, validation in read_trajectories(path):
        counts["trajectories"] += 1
        # A policy that has learned from its validation tasks cannot be validated on them any more.
        if reason := "of a validation" if validation else _refused(trajectory, store, config):
            counts[reason] += 1
        else:
            yield trajectory


def _refused(trajectory: Trajectory, store: ImageStore, config: DataConfig) -> str | None:
    """Return the reason to leave a trajectory out; None if it is used."""
    if not trajectory.turns or trajectory.stop_reason is None or trajectory.stop_reason.failed:
        return "failed"
    if config.min_score is not None and (trajectory.score is None or trajectory.score < config.min_score):
        return "below the minimum score"
    shown = (handle for message in trajectory.messages for handle in message.images)
    return None if all(handle in store for handle in shown) else "without their images"


def _distinct(
    found: Sequence[tuple[Trajectory, ImageStore]], counts: Counter[str]
) -> list[tuple[Trajectory, ImageStore]]:
    """Return each trajectory once: by token ids where they are known, else by messages."""
    seen: dict[str, tuple[Trajectory, ImageStore]] = {}
    for trajectory, store in found:
        ids = trajectory.tokens.ids if trajectory.tokens is not None else None
        key = json.dumps([ids or [message.to_dict() for message in trajectory.messages], trajectory.images])
        seen.setdefault(key, (trajectory, store))
    counts["same as another"] += len(found) - len(seen)
    return list(seen.values())


def _prompt(trajectory: Trajectory) -> list[Message]:
    """Return the messages before the policy's first turn."""
    spoken = [i for i, message in enumerate(trajectory.messages) if message.role == "assistant"]
    turns = len(trajectory.turns)
    return trajectory.messages[: spoken[len(spoken) - turns]] if 0 < turns <= len(spoken) else trajectory.messages
