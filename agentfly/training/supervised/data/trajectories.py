"""Select trajectories to train on: read from any log, filtered by score, the best of each task, each only once.

A trajectory with token ids is trained on exactly those ids, with its own mask. This model's processor and template must
give the same ids for it, so that a log of another model is not used by mistake.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from agentfly.agents import Trajectory
from agentfly.agents.trajectory_file import first_messages, image_folder, read_trajectories
from agentfly.errors import AgentFlyError, ConfigError, DatasetError
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec
from agentfly.training.supervised.data.config import DataConfig
from agentfly.training.supervised.data.examples import IGNORED, LoadImage, Sample, conversation_ids
from agentfly.training.supervised.data.splits import task_key


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
    if config.images is not None and not config.images.is_dir():
        raise DatasetError(f"data.images={config.images} is no folder")
    for path in config.trajectories:
        store = ImageStore(config.images or image_folder(path))
        try:
            for _, line in read_trajectories(path):
                counts["trajectories"] += 1
                # A policy that has learned from its validation tasks cannot be validated on them any more.
                if reason := "of a validation" if line.validate else _refused(line.trajectory, store, config):
                    counts[reason] += 1
                else:
                    found.append((line.trajectory, store))
        except ConfigError as fault:
            raise DatasetError(str(fault)) from fault
    kept = best(_distinct(found, counts), config.per_task)
    counts["beyond the best of their task"] += len(found) - counts["same as another"] - len(kept)
    return [trajectory_sample(t, codec, store.get, retokenise=config.retokenise) for t, store in kept]


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
        tasks[task_key(first_messages(trajectory))].append(index)

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
    task, tokens = task_key(first_messages(trajectory)), trajectory.tokens
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
