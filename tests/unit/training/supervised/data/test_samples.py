"""Sources become samples: none twice, none too long, held out by task, and all that is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentfly.errors import ConfigError, DatasetError
from agentfly.templates import ChatCodec
from agentfly.training.supervised.data.config import DataConfig
from agentfly.training.supervised.data.examples import IGNORED, Sample
from agentfly.training.supervised.data.samples import hold_out, prepare


@pytest.mark.slow
def test_demonstrations_are_those_of_an_expert(codec: ChatCodec) -> None:
    prepared = prepare(DataConfig(stickers=10, held_out=0.2), codec, system_prompt=None, seed=0)
    assert len(prepared.training) + len(prepared.held_out) == 10
    assert {sample.task for sample in prepared.training} & {sample.task for sample in prepared.held_out} == set()
    texts = [codec.decode(sample.ids[sample.labels != IGNORED].tolist()) for sample in prepared.training]
    assert all("auto_inpaint_image" in text and "give_answer" in text for text in texts)
    assert prepared.counts == {"demonstrations": 10}
    again = prepare(DataConfig(stickers=10, held_out=0.2), codec, system_prompt=None, seed=0)
    other = prepare(DataConfig(stickers=10, held_out=0.2), codec, system_prompt=None, seed=1)
    assert prepared.summary() == again.summary()
    assert prepared.summary()["digest"] != other.summary()["digest"]


async def test_long_samples_are_cut_or_dropped_and_counted(play: Any, codec: ChatCodec, tmp_path: Path) -> None:
    log = await play("brighten", codec=codec)
    length = len(log.trajectories[0].tokens.ids)
    config = DataConfig(trajectories=(log.path,), max_length=length - 1, held_out=0.0)
    prepared = prepare(config, codec, system_prompt=None, seed=0)
    assert prepared.counts == {"trajectories": 1, "cut": 1}
    assert len(prepared.training[0].ids) < length
    with pytest.raises(DatasetError, match=r"'too long': 1.*raise data\.max_length"):
        prepare(config.model_copy(update={"max_length": 20}), codec, system_prompt=None, seed=0)


async def test_a_row_that_tells_a_trajectory_again_is_left_out(play: Any, codec: ChatCodec, tmp_path: Path) -> None:
    log = await play("brighten", codec=codec)
    trajectory = log.trajectories[0]
    messages = [message.to_openai(lambda handle: str(log.store.path(handle))) for message in trajectory.messages]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": messages, "tools": trajectory.tools}))
    config = DataConfig(trajectories=(log.path,), openai=(rows,))
    assert len(prepare(config, codec, system_prompt=None, seed=0).training) == 1


def test_nothing_to_learn_from_is_said(codec: ChatCodec) -> None:
    with pytest.raises(ConfigError, match=r"data\.stickers"):
        prepare(DataConfig(), codec, system_prompt=None, seed=0)


def sample(codec: ChatCodec, number: int, task: str) -> Sample:
    ids = np.array([number], np.int32)
    return Sample(ids, ids, (), codec, lambda handle: pytest.fail(handle), task)


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_a_split_leaves_something_on_both_sides(codec: ChatCodec, share: float) -> None:
    samples = [sample(codec, number, f"task {number // 3}") for number in range(12)]
    training, held_out = hold_out(samples, share, 0)
    assert training
    assert held_out
    assert {s.task for s in training} & {s.task for s in held_out} == set()
    assert hold_out(samples[:3], share, 0) == (samples[:3], [])
