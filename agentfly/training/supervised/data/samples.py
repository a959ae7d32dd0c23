"""Turn sources into samples: read them, drop duplicates, cut to length, split, and count all that is left out.

Trajectories come from any log: filtered by score, the best of each task, each only once. One with token ids is trained
on exactly those ids, with its own mask. This model's processor and template must give the same ids for it, so that a
log of another model is not used by mistake.

Conversations come in OpenAI's JSONL form: `messages`, `tools`, images as data URIs or files. A message of the assistant
with `"weight": 0` is context: it carries no loss (as in OpenAI's fine-tuning files,
https://platform.openai.com/docs/guides/supervised-fine-tuning). Its `reasoning_content` is learned before its content,
in `<think>` tags.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from agentfly.agents import Trajectory
from agentfly.agents.inputs import place_images
from agentfly.agents.spec import DEFAULT, AgentSpec
from agentfly.agents.trajectory_file import first_messages, image_folder, read_trajectories
from agentfly.datasets.tables import parse_json, read_lines
from agentfly.errors import AgentFlyError, ConfigError, DatasetError
from agentfly.images import ImageSource, ImageStore, load_image
from agentfly.messages import Message, TextPart, from_openai
from agentfly.templates import ChatCodec
from agentfly.training.supervised.data.config import DataConfig
from agentfly.training.supervised.data.demonstrations import expert_demonstrations
from agentfly.training.supervised.data.examples import IGNORED, LoadImage, Sample, conversation_ids

logger = logging.getLogger(__name__)

# Names of the field in which servers keep the thoughts of a turn apart from its content.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# Advice by the reason for which samples were left out.
_ADVICE = {
    "without their images": (
        "; name their folder with data.images; `agentfly train` keeps them unless agentfly.images=false, up to "
        "agentfly.images.max_gb"
    ),
    "too long": "; raise data.max_length",
    "below the minimum score": "; lower data.min_score, or score them first with `agentfly replay`",
}


class DataSummary(TypedDict):
    """Sizes of a run's data, as plain JSON.

    Attributes:
        training: samples to train on.
        held_out: samples that are only evaluated.
        tokens: ids of the training samples.
        labelled: those with loss.
        longest: ids of the longest training sample.
        images: of the training samples.
        digest: hash of the training samples.
        counts: see `Prepared`.
    """

    training: int
    held_out: int
    tokens: int
    labelled: int
    longest: int
    images: int
    digest: str
    counts: dict[str, int]


@dataclass(frozen=True)
class Prepared:
    """Samples of a run.

    Attributes:
        training: to train on.
        held_out: only evaluated; of other tasks than those in `training`.
        counts: samples by source, and those that were left out or cut, by reason.
    """

    training: list[Sample]
    held_out: list[Sample]
    counts: dict[str, int]

    def summary(self) -> DataSummary:
        """Return sizes, counts and a hash of the content."""
        lengths = [len(sample.ids) for sample in self.training]
        return {
            "training": len(self.training),
            "held_out": len(self.held_out),
            "tokens": sum(lengths),
            "labelled": sum(sample.labelled for sample in self.training),
            "longest": max(lengths),
            "images": sum(len(sample.images) for sample in self.training),
            "digest": digest(self.training),
            "counts": self.counts,
        }


def prepare(
    config: DataConfig, codec: ChatCodec, spec: AgentSpec = DEFAULT, *, system_prompt: str | None, seed: int
) -> Prepared:
    """Read all sources and split their samples.

    Args:
        config: see `DataConfig`.
        codec: of the model.
        spec: the agent that plays the demonstrations.
        system_prompt: of the demonstrations.
        seed: of the demonstrations and the split.

    Raises:
        ConfigError: no source is named.
        DatasetError: a source cannot be used, or nothing is left to learn from; the message says why.
    """
    if not (config.stickers or config.trajectories or config.openai):
        raise ConfigError("nothing to learn from: give data.stickers, data.trajectories or data.openai")
    counts: Counter[str] = Counter()
    store = ImageStore()
    samples: list[Sample] = []
    if config.stickers:
        played = asyncio.run(
            expert_demonstrations(config.stickers, store, seed, system_prompt=system_prompt, spec=spec)
        )
        samples += [trajectory_sample(trajectory, codec, store.get) for trajectory in played]
    counts["demonstrations"] = len(samples)
    samples += trajectory_samples(config, codec, counts)
    rows = [sample for path in config.openai for sample in openai_samples(path, codec, store)]
    counts["rows"] = len(rows)
    samples = _fitting(unique(samples + rows), config.max_length, counts)
    found = {name: number for name, number in counts.items() if number}
    if not samples:
        advice = next((text for reason, text in _ADVICE.items() if reason in found), "")
        raise DatasetError(f"nothing is left to learn from: {found}{advice}")
    logger.info("supervised data: %s", found)
    training, held_out = hold_out(samples, config.held_out, seed)
    return Prepared(training, held_out, found)


def _fitting(samples: list[Sample], limit: int, counts: Counter[str]) -> list[Sample]:
    """Cut longer samples at the end of a turn within the limit, and drop those of which no turn fits."""
    kept: list[Sample] = []
    for sample in samples:
        labelled = np.flatnonzero(sample.labels != IGNORED)
        cut = sample.cut(limit)
        if cut is None:
            counts["too long" if labelled.size else "without a turn to learn"] += 1
        else:
            counts["cut"] += int(len(cut.ids) <= labelled[-1])
            kept.append(cut)
    return kept


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
        turns = trajectory.turns
        spoken = [message for message in trajectory.messages if message.role == "assistant"]
        # A call that could not be parsed is only in the text, not in the message.
        texts = [
            turn.text if any(call.error for call in message.tool_calls) else codec.turn_text(message)
            for turn, message in zip(turns, spoken[len(spoken) - len(turns) :], strict=True)
        ]
        ids, labels, images = conversation_ids(trajectory.messages, trajectory.tools, codec, load_image, texts)
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


def openai_samples(path: Path, codec: ChatCodec, store: ImageStore) -> Iterator[Sample]:
    """Yield the samples of a file.

    Args:
        path: one JSON object a line.
        codec: of the model.
        store: gets the images.

    Raises:
        DatasetError: a line cannot be used; the message names it and says why.
    """
    try:
        path.open("rb").close()
    except OSError as fault:
        raise DatasetError(f"{path} cannot be read: {fault.strerror}") from fault
    for number, line in read_lines(path):
        try:
            yield _sample(parse_json(line), path.parent, codec, store)
        except (AgentFlyError, ValueError, RecursionError) as fault:
            raise DatasetError(f"{path}, line {number}: {fault}") from fault


def _sample(row: object, folder: Path, codec: ChatCodec, store: ImageStore) -> Sample:
    """Return a sample of a row; its images are data URIs, or files in the folder."""
    if not isinstance(row, Mapping) or not isinstance(row.get("messages"), list):
        raise DatasetError("a line is an object with a list of 'messages'")
    row = place_images(row, strict=True)

    def store_image(source: ImageSource) -> str:
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            raise DatasetError("images are data URIs or files here: download them first, and name the files")
        if isinstance(source, (str, os.PathLike)) and not str(source).startswith("data:"):
            source = folder / str(source).removeprefix("file://")
        return store.put(load_image(source))

    messages = [_with_thought(from_openai(message, store_image), message) for message in row["messages"]]
    spoken = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not spoken or spoken[0] == 0:
        raise DatasetError("the assistant must speak at least once, and not first")
    broken = [call.error for message in messages for call in message.tool_calls if call.error]
    if broken:
        raise DatasetError(f"a tool call cannot be learned: {broken[0]}")
    graded = [row["messages"][i].get("weight", 1) != 0 for i in spoken]
    texts, tools = [codec.turn_text(messages[i]) for i in spoken], row.get("tools") or []
    ids, labels, images = conversation_ids(messages, tools, codec, store.get, texts, graded)
    return Sample(
        np.array(ids, np.int32),
        np.array(labels, np.int32),
        tuple(images),
        codec,
        store.get,
        task_key(messages[: spoken[0]]),
    )


def _with_thought(message: Message, given: Mapping[str, object]) -> Message:
    """Return a turn with the thought that its row has apart from the content, as Qwen's thinking models write it.

    Args:
        message: the turn without the thought.
        given: the message of the row.

    Raises:
        DatasetError: the thought is no text, or the content has one too.
    """
    name, thought = next(((name, given[name]) for name in _THOUGHTS if given.get(name)), ("", None))
    if message.role != "assistant" or thought is None:
        return message
    if not isinstance(thought, str):
        raise DatasetError(f"{name!r} is text, not {type(thought).__name__}")
    if "</think>" in message.text:
        raise DatasetError(f"a message has thoughts in 'content' and in {name!r}: leave one of them out")
    # Templates begin a call on a line of its own.
    gap = "\n" if message.tool_calls and not message.text else "\n\n"
    return replace(message, parts=(TextPart(f"<think>\n{thought.strip()}\n</think>{gap}"), *message.parts))


def task_key(prompt: Iterable[Message]) -> str:
    """Return the key of a task: the same words about the same images give the same key."""
    text = json.dumps([message.to_dict() for message in prompt], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(samples: Iterable[Sample]) -> str:
    """Return a hash of the content of samples, in their order."""
    total = hashlib.sha256()
    for sample in samples:
        total.update(content_key(sample))
    return total.hexdigest()[:16]


def content_key(sample: Sample) -> bytes:
    """Return a key that is equal for samples with the same ids, labels and images."""
    parts = (sample.ids.tobytes(), sample.labels.tobytes(), " ".join(sample.images).encode())
    return hashlib.sha256(b"|".join(parts)).digest()


def unique(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples without duplicates, each at its first place."""
    return list({content_key(sample): sample for sample in reversed(list(samples))}.values())[::-1]


def hold_out(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split samples by task into training and held-out samples.

    Args:
        samples: to split.
        share: of the tasks that is held out; with two tasks or more, neither side is empty unless it is 0.
        seed: of the split.
    """
    tasks = sorted({sample.task for sample in samples})
    if share <= 0.0 or len(tasks) < 2:
        return list(samples), []
    random.Random(f"held-out-{seed}").shuffle(tasks)
    held = set(tasks[: min(len(tasks) - 1, max(1, round(share * len(tasks))))])
    return [s for s in samples if s.task not in held], [s for s in samples if s.task in held]
