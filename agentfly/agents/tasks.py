"""Tasks as conversations, tasks in files, and the score of a finished chain; for evaluation and training alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from PIL import Image

from agentfly.agents.reward_function import Lazy, Reward
from agentfly.agents.trajectory import Trajectory
from agentfly.datasets.task import EditTask
from agentfly.errors import EvaluatorError, ImageError
from agentfly.evaluators import EditSample, Evaluator, RewardConfig, Score, compose_reward
from agentfly.images import ImageStore, load_image, load_mask


@dataclass(frozen=True)
class EvaluationSetup:
    """The source of scores and rewards.

    Attributes:
        evaluator: gives the score.
        reward: converts it to the reward.
        function: gives the reward instead, None for none. The evaluator is asked only if the function asks for `score`
            or `aspects`.
        timeout: seconds that the function may take.
    """

    evaluator: Evaluator
    reward: RewardConfig = field(default_factory=RewardConfig)
    function: Reward | None = None
    timeout: float = 600.0


@dataclass(frozen=True)
class TaskFacts:
    """A task with its images as handles, for files.

    Attributes:
        id, instruction, task_type, metadata: of the task.
        images: of the images to edit, the one to edit first; empty where they are not known.
        target, mask: where they are known.
        references: by name, see `EditTask`.
    """

    id: str
    instruction: str
    task_type: str = "edit"
    images: tuple[str, ...] = ()
    target: str | None = None
    mask: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def keep(cls, task: EditTask, store: ImageStore) -> TaskFacts:
        """Put the images of a task into a store.

        Raises:
            ImageError: an image cannot be loaded.
        """

        images = tuple(store.put(load_image(source)) for source in task.images)
        target = None if task.target is None else store.put(load_image(task.target))
        mask = None if task.mask is None else store.put(load_mask(task.mask))
        references = {name: store.put(load_image(source)) for name, source in task.references.items()}
        return cls(task.id, task.instruction, task.task_type, images, target, mask, task.metadata, references)

    @classmethod
    def without_images(cls, task: EditTask) -> TaskFacts:
        """Return the words of a task whose images cannot be loaded."""
        return cls(task.id, task.instruction, task.task_type, metadata=task.metadata)

    def to_dict(self) -> dict[str, object]:
        """Return the task for JSON; `task_type` is written as `type`, and what is not known is left out."""
        data = asdict(self)
        data["type"] = data.pop("task_type")
        return {key: value for key, value in data.items() if value not in (None, (), {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskFacts:
        """Return the task of `to_dict`, or of version 0.1, which wrote `task_type`."""
        known = dict(data)
        known["task_type"] = known.pop("type", None) or known.get("task_type") or "edit"
        return cls(**{**known, "images": tuple(known.get("images", ()))})

    @property
    def fingerprint(self) -> str:
        """A hash of words and images. Two runs with the same one are about the same task."""
        content = json.dumps([self.instruction, self.images, self.target, self.mask], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def fields(self, store: ImageStore) -> dict[str, Lazy]:
        """Return what a reward function may ask for of the task, by name; see `task_fields`.

        Args:
            store: with the images of the task.
        """
        return _fields(
            self.instruction,
            self.metadata,
            None if self.target is None else partial(store.get, self.target),
            None if self.mask is None else partial(store.get, self.mask),
        )

    def sample(self, store: ImageStore, result: str | None) -> EditSample:
        """Return the sample that evaluators take.

        Raises:
            ImageError: an image is not in the store.
        """
        if not self.images:
            raise ImageError("the source image is not known")
        return EditSample(
            instruction=self.instruction,
            source=store.get(self.images[0]),
            result=None if result is None else store.get(result),
            target=None if self.target is None else store.get(self.target),
            mask=None if self.mask is None else store.get(self.mask),
            metadata=self.metadata,
            sources=tuple(map(store.get, self.images)) if len(self.images) > 1 else (),
            references={name: store.get(handle) for name, handle in self.references.items()},
        )


def task_conversation(task: EditTask) -> dict[str, object]:
    """Return the conversation that a task starts: its images, then its instruction; beside it its metadata."""
    parts: list[dict[str, object]] = [{"type": "image", "image": source} for source in task.images]
    # The line break parts the instruction from an image.
    parts.append({"type": "text", "text": f"\n{task.instruction}" if parts else task.instruction})
    named = {"id": task.id, "task_type": task.task_type, "messages": [{"role": "user", "content": parts}]}
    return {**task.metadata, **named}


def edit_sample(task: EditTask, result: Image.Image | None) -> EditSample:
    """Return a result of a task as the sample that evaluators take.

    Raises:
        ImageError: the task has no source image, or an image cannot be loaded.
    """
    if not task.images:
        raise ImageError("the source image is not known")
    return EditSample(
        instruction=task.instruction,
        source=load_image(task.images[0]),
        result=result,
        target=None if task.target is None else load_image(task.target),
        mask=None if task.mask is None else load_mask(task.mask),
        metadata=task.metadata,
        sources=tuple(map(load_image, task.images)) if len(task.images) > 1 else (),
        references={name: load_image(source) for name, source in task.references.items()},
    )


async def score_trajectory(
    trajectory: Trajectory, task: EditTask, store: ImageStore, setup: EvaluationSetup
) -> Trajectory:
    """Score a finished trajectory against its task and write score, aspects, reward and its parts on it.

    Raises:
        EvaluatorError: it cannot be scored.
    """
    if setup.function is not None:
        return await _reward_by_function(trajectory, task, store, setup, setup.function)
    score = await _score(trajectory, task, store, setup.evaluator)
    records = trajectory.tool_records
    reward = compose_reward(
        score,
        answered=trajectory.answered,
        malformed_calls=sum(record.malformed for record in records),
        failed_calls=sum(record.error is not None for record in records),
        tool_calls=len(records),
        overlong_turns=sum(turn.finish_reason == "length" for turn in trajectory.turns),
        config=setup.reward,
    )
    trajectory.score, trajectory.aspects = score.value, dict(score.aspects)
    trajectory.reward, trajectory.reward_parts = reward.value, dict(reward.parts)
    return trajectory


async def _score(trajectory: Trajectory, task: EditTask, store: ImageStore, evaluator: Evaluator) -> Score:
    result = store.get(trajectory.final_image) if trajectory.final_image else None
    return await evaluator.evaluate(edit_sample(task, result))


async def _reward_by_function(
    trajectory: Trajectory, task: EditTask, store: ImageStore, setup: EvaluationSetup, function: Reward
) -> Trajectory:
    fields = task_fields(task)
    if function.asks_for("score", "aspects"):
        score = await _score(trajectory, task, store, setup.evaluator)
        fields |= score_fields(score)
    await function.score(trajectory, store, setup.timeout, fields)
    if trajectory.reward is None:
        raise EvaluatorError(f"no reward: {trajectory.reward_error}")
    trajectory.score = score_of_reward(trajectory.reward, trajectory.reward_parts)
    return trajectory


def task_fields(task: EditTask) -> dict[str, Lazy]:
    """Return what a reward function may ask for of a task, by name; images are loaded when they are asked for."""
    target, mask = task.target, task.mask
    return _fields(
        task.instruction,
        task.metadata,
        None if target is None else lambda: load_image(target),
        None if mask is None else lambda: load_mask(mask),
    )


def _fields(
    instruction: str, metadata: Mapping[str, object], target: Lazy | None, mask: Lazy | None
) -> dict[str, Lazy]:
    # Columns of these names must not stand for the task's own.
    columns = [name for name in metadata if name not in ("id", "task_type")]
    named: dict[str, Lazy] = {name: partial(metadata.__getitem__, name) for name in columns}
    own: dict[str, Lazy] = {
        "instruction": lambda: instruction,
        "target": target or (lambda: None),
        "mask": mask or (lambda: None),
    }
    return {**named, **own}


def score_fields(score: Score) -> dict[str, Lazy]:
    """Return what a reward function may ask for of an evaluator's score, by name."""
    return {"score": lambda: score.value, "aspects": lambda: dict(score.aspects)}


def score_of_reward(reward: float, parts: Mapping[str, float]) -> float:
    """Return the score (0 to 100) for tables: the part "score" where there is one, else 100 times the reward, clipped.

    Args:
        reward: of a function.
        parts: that it gave beside the reward.
    """
    return min(max(parts["score"] if "score" in parts else 100.0 * reward, 0.0), 100.0)
