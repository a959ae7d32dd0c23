"""Trajectories are trained on by their exact ids, the best of each task, each once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents import StopReason
from agentfly.errors import DatasetError
from agentfly.templates import ChatCodec
from agentfly.training.supervised.data.config import DataConfig
from agentfly.training.supervised.data.examples import IGNORED, Sample
from agentfly.training.supervised.data.samples import trajectory_samples
from tests.unit.training.supervised.conftest import ANSWER, EDIT


def samples(codec: ChatCodec, path: Path, **settings: Any) -> tuple[list[Sample], dict[str, int]]:
    counts: Counter[str] = Counter()
    found = trajectory_samples(DataConfig(trajectories=(path,), **settings), codec, counts)
    return found, {name: count for name, count in counts.items() if count}


def first_words(codec: ChatCodec, sample: Sample) -> str:
    return codec.decode(sample.ids[sample.labels != IGNORED].tolist())


async def test_recorded_ids_and_mask_are_used_as_they_are(play: Any, codec: ChatCodec) -> None:
    log = await play("brighten", codec=codec)
    (sample,), counts = samples(codec, log.path)
    tokens = log.trajectories[0].tokens
    assert sample.ids.tolist() == tokens.ids
    assert [int(label != IGNORED) for label in sample.labels] == [0] * len(tokens.prompt_ids) + tokens.mask
    assert counts == {"trajectories": 1}


async def test_without_ids_the_messages_give_those_of_the_rollout(play: Any, codec: ChatCodec) -> None:
    """A chat endpoint returns no ids; they are made as this policy would have sampled them."""
    exact, plain = await play("brighten", codec=codec), await play("brighten", codec=None, name="plain")
    assert plain.trajectories[0].tokens is None
    (wanted,), _ = samples(codec, exact.path)
    for path, settings in ((plain.path, {}), (exact.path, {"retokenise": True})):
        (sample,), _ = samples(codec, path, **settings)
        assert sample.ids.tolist() == wanted.ids.tolist()
        assert sample.labels.tolist() == wanted.labels.tolist()
        assert sample.images == wanted.images


async def test_ids_of_another_template_are_refused_unless_made_anew(
    play: Any, codec: ChatCodec, small_policy: Path
) -> None:
    other = ChatCodec.from_pretrained(str(small_policy), "qwen2.5-vl-system-tool")
    log = await play("brighten", codec=other)
    with pytest.raises(DatasetError, match="retokenise"):
        samples(codec, log.path)
    (sample,), _ = samples(codec, log.path, retokenise=True)
    assert first_words(codec, sample) == EDIT % "brighten" + ANSWER


async def test_the_best_of_a_task_by_score(play: Any, codec: ChatCodec) -> None:
    log = await play("blur", "darken", "brighten", codec=codec)
    (sample,), counts = samples(codec, log.path, per_task=1)
    assert first_words(codec, sample) == EDIT % "brighten" + ANSWER
    assert counts == {"trajectories": 3, "beyond the best of their task": 2}
    other = await play("blur", codec=codec, name="other", task="Blur it.")
    both, _ = trajectory_both(codec, log.path, other.path)
    assert len(both) == 2


def trajectory_both(codec: ChatCodec, *paths: Path) -> tuple[list[Sample], Counter[str]]:
    counts: Counter[str] = Counter()
    return trajectory_samples(DataConfig(trajectories=paths, per_task=1), codec, counts), counts


async def test_equal_trajectories_count_once(play: Any, codec: ChatCodec) -> None:
    log = await play("blur", "blur", "darken", codec=codec)
    found, counts = samples(codec, log.path)
    assert len(found) == 2
    assert counts["same as another"] == 1
    plain = await play("blur", "blur", codec=None, name="plain")
    assert len(samples(codec, plain.path)[0]) == 1


async def test_what_is_not_good_enough_is_counted(play: Any, codec: ChatCodec) -> None:
    log = await play("blur", "darken", "brighten", codec=codec)
    log.trajectories[2].score = None
    log.trajectories[0].stop_reason = StopReason.BACKEND_ERROR
    log.write()
    found, counts = samples(codec, log.path, min_score=5.0)
    assert [first_words(codec, sample) for sample in found] == [EDIT % "darken" + ANSWER]
    assert counts == {"trajectories": 3, "failed": 1, "below the minimum score": 1}


async def test_trajectories_without_their_images_are_counted(play: Any, codec: ChatCodec) -> None:
    log = await play("blur", codec=codec)
    shutil.move(log.path.parent / "images", log.path.parent / "elsewhere")
    assert samples(codec, log.path) == ([], {"trajectories": 1, "without their images": 1})
    found, _ = samples(codec, log.path, images=log.path.parent / "elsewhere")
    assert len(found) == 1
    with pytest.raises(DatasetError, match="no folder"):
        samples(codec, log.path, images=log.path.parent / "nowhere")


async def test_validation_is_not_learned_from(play: Any, codec: ChatCodec) -> None:
    log = await play("blur", "darken", codec=codec)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    marked = ({"validate": index == 0, "trajectory": line} for index, line in enumerate(lines))
    log.path.write_text("".join(json.dumps(line) + "\n" for line in marked))
    found, counts = samples(codec, log.path)
    assert [first_words(codec, sample) for sample in found] == [EDIT % "darken" + ANSWER]
    assert counts == {"trajectories": 2, "of a validation": 1}


async def test_lines_of_any_log_are_read(play: Any, codec: ChatCodec) -> None:
    log = await play("blur", "darken", codec=codec)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    wrapped = [json.dumps({"step": 3, "trajectory": line}) for line in lines]
    log.path.write_text("\n".join(wrapped) + '\n{"trajectory": {"id": "torn')
    assert samples(codec, log.path)[1] == {"trajectories": 2}
    log.path.write_text('{"id": "x"}\n' + "\n".join(wrapped))
    with pytest.raises(DatasetError, match=r"line 1 is no trajectory"):
        samples(codec, log.path)
