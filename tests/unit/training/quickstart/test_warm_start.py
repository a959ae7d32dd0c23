"""A warm start has its task types in the shares of its settings, is known by its settings, and can be resumed.

Its examples have the tokens and masks of the rollout, and training on them lowers the loss.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from agentfly.agents import AgentSettings, ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.spec import AgentSpec
from agentfly.datasets import FAMILIES, EditTask, StickerWorld, vocabulary
from agentfly.errors import ConfigError
from agentfly.images import ImageStore, ImageView
from agentfly.templates import ChatCodec
from agentfly.training.quickstart import warm_start as room
from agentfly.training.quickstart.tiny_policy import PolicySize, build_policy
from agentfly.training.quickstart.warm_start import (
    SFTConfig,
    WarmStartConfig,
    is_begun,
    is_warm_start,
    seen_example,
    train,
    warm_start,
)
from agentfly.training.supervised.data import demonstrations
from agentfly.training.supervised.data.demonstrations import DemonstrationMix, seen_calls, tool_schemas
from agentfly.training.supervised.data.examples import IGNORED, Example, Sample, conversation_ids, ending_with
from agentfly.training.supervised.data.packed import PackedExamples
from agentfly.training.supervised.state import RunFolder
from agentfly.vision.shapes import COLOURS

pytestmark = pytest.mark.slow

SMALL = WarmStartConfig(demonstrations=2, looks=1, sft=SFTConfig(steps=2, batch_size=2, micro_batch=1))
EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "brighten"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'


class Enough(Exception):
    """Raised to stop a warm start before its heavy parts."""


def stop(*_: Any, **__: Any) -> None:
    raise Enough


def test_demonstrations_take_the_families_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[str] = []

    async def play(tasks: Sequence[EditTask], *_: Any, **__: Any) -> None:
        shown.extend(str(task.task_type) for task in tasks)
        raise Enough

    monkeypatch.setattr(demonstrations, "play", play)
    config = WarmStartConfig(demonstrations=10, families={"two_step": 3, "look": 1})
    with pytest.raises(Enough):
        warm_start(config, tmp_path)
    assert shown == ["two_step", "two_step", "two_step", "look"] * 2 + ["two_step"] * 2
    assert set(WarmStartConfig().families) == set(FAMILIES)
    assert Counter(WarmStartConfig().families).most_common(1)[0][0] == "two_step"


def test_a_finished_warm_start_is_known_by_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not is_warm_start(tmp_path, SMALL)
    events: list[tuple[str, int, int]] = []
    assert is_warm_start(warm_start(SMALL, tmp_path, lambda *event: events.append(event)), SMALL)
    assert events == [("demonstrations", 2, 2), ("looks", 1, 1), ("supervised", 1, 2), ("supervised", 2, 2)]
    assert not is_warm_start(tmp_path, SMALL.model_copy(update={"seed": 1}))
    assert not (tmp_path / room.UNFINISHED).exists()
    monkeypatch.setattr(room, "train", stop)
    with pytest.raises(Enough):
        warm_start(SMALL, tmp_path)
    assert not is_warm_start(tmp_path, SMALL)


def test_a_warm_start_that_was_stopped_plays_nothing_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(room, "train", stop)
        with pytest.raises(Enough):
            warm_start(SMALL, tmp_path)
    assert is_begun(tmp_path, SMALL)
    assert not is_begun(tmp_path, SMALL.model_copy(update={"seed": 1}))
    monkeypatch.setattr(demonstrations, "play", stop)
    assert is_warm_start(warm_start(SMALL, tmp_path), SMALL)


async def example_and_rollout(policy: Path, image: Image.Image) -> tuple[Example, list[int], list[int]]:
    codec = ChatCodec.from_pretrained(str(policy))
    settings = AgentSettings(system_prompt=None)
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, ANSWER], codec=codec), settings=settings)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Brighter."}]
    trajectory = (await agent.run([{"role": "user", "content": content}]))[0]
    tokens = trajectory.tokens
    assert tokens is not None
    schemas = agent.toolset(ImageView(agent.store)).schemas()
    texts = [turn.text for turn in trajectory.turns]
    ids, labels, handles = conversation_ids(trajectory.messages, schemas, codec, agent.store.get, texts)
    arrays = np.array(ids, np.int32), np.array(labels, np.int32)
    example = Sample(*arrays, tuple(handles), codec, agent.store.get).load()
    return example, tokens.ids, [0] * len(tokens.prompt_ids) + tokens.mask


async def test_ids_and_mask_are_those_of_the_rollout(tiny_policy: Path, image: Image.Image) -> None:
    example, ids, mask = await example_and_rollout(tiny_policy, image)
    assert list(example.ids) == ids
    assert [int(label != IGNORED) for label in example.labels] == mask
    assert len(example.grids) == 2
    assert example.pixels.shape[0] == sum(t * h * w for t, h, w in example.grids)


async def test_a_look_teaches_its_place_and_not_the_choice_to_look(tiny_policy: Path, image: Image.Image) -> None:
    codec, spec = ChatCodec.from_pretrained(str(tiny_policy)), AgentSpec(tools=("edit", "zoom", "colour_at"))
    tasks = [StickerWorld().task(index, "train", "tiny") for index in range(4)]
    mix = DemonstrationMix()
    calls = await seen_calls(tasks, mix, ImageStore(), random.Random(0), system_prompt=None, spec=spec)
    schemas = await tool_schemas(spec)
    for task, call in zip(tasks, calls, strict=True):
        ids, labels, _ = seen_example(call, schemas, codec, image)
        assert len(ids) == len(labels)
        taught = codec.tokenizer.decode([label for label in labels if label != IGNORED])
        assert re.fullmatch(r'\d+, ("y": )?\d+(, \d+, \d+\])?}}</tool_call><\|im_end\|>[a-z]+', taught)
        assert taught.endswith(call.words)
        assert call.words == task.metadata["steps"][0]["detect"].split()[0]


async def test_an_example_can_end_with_the_words_that_count(tiny_policy: Path, image: Image.Image) -> None:
    example, _, _ = await example_and_rollout(tiny_policy, image)
    ids, labels = ending_with([*example.ids], 2)
    assert ids == list(example.ids[:-1])
    assert labels[-2:] == ids[-2:]
    assert {*labels[:-2]} == {IGNORED}


async def test_training_lowers_the_loss(tmp_path: Path, image: Image.Image) -> None:
    size = PolicySize(layers=1, vision_layers=1)
    assert build_policy(tmp_path, vocabulary(), size=size) < 1_000_000
    example, _, _ = await example_and_rollout(tmp_path, image)
    losses: list[float] = []
    config = SFTConfig(steps=12, batch_size=2, warmup=2)
    train(tmp_path, [example], config, RunFolder(tmp_path / "state"), lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.6 * losses[0]


class Killed(Exception):
    """Stands for the death of the process."""


async def test_a_training_that_was_stopped_goes_on_from_its_checkpoint(
    tiny_policy: Path, image: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed warm start used to start again at step 1."""
    monkeypatch.setattr(room, "_SAVE_EVERY", 2)
    example, _, _ = await example_and_rollout(tiny_policy, image)
    config = SFTConfig(steps=6, batch_size=4, micro_batch=2, warmup=2)
    folders = [Path(shutil.copytree(tiny_policy, tmp_path / name)) for name in ("whole", "stopped")]
    train(folders[0], [example], config, RunFolder(folders[0] / "unfinished"))
    steps: list[int] = []

    def note(step: int, loss: float) -> None:
        steps.append(step)
        if len(steps) == 5:
            raise Killed

    state = RunFolder(folders[1] / "unfinished")
    with pytest.raises(Killed):
        train(folders[1], [example], config, state, note)
    train(folders[1], [example], config, state, note)
    assert steps == [1, 2, 3, 4, 5, 5, 6]
    whole, resumed = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


async def test_an_unknown_policy_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'layers'"):
        PolicySize(layer=3)  # type: ignore[call-arg]


def test_the_shipped_record_is_read_with_the_defaults_of_newer_settings() -> None:
    """Its policy must still be found when settings are added that it was made without."""
    record = json.loads((room.SHIPPED / room.RECORD).read_text(encoding="utf-8"))
    assert "first_looks" not in record["mix"]
    assert room.shipped_warm_start(WarmStartConfig()) == room.SHIPPED
    other = WarmStartConfig(mix=DemonstrationMix(first_looks=0.5))
    assert room.shipped_warm_start(other) is None


def test_tools_that_look_and_retouch_are_demonstrated_with_the_words_that_only_images_show(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = PolicyConfig(system_prompt=None, tools=("edit", "zoom", "colour_at", "adjust_colour"))
    config = SMALL.model_copy(update={"families": {"tiny": 1, "cast": 1}, "looks": 6, "card": card})
    monkeypatch.setattr(room, "train", stop)
    with pytest.raises(Enough):
        warm_start(config, tmp_path)
    examples = PackedExamples.load(tmp_path / room.UNFINISHED / room.EXAMPLES)
    codec = ChatCodec.from_pretrained(str(tmp_path))
    assert len(examples) == 2 + 6
    for index in range(2, 8):
        example = examples[index]
        text = codec.decode([*example.ids])
        taught = codec.decode([label for label in example.labels if label != IGNORED])
        if index % 2:
            assert re.fullmatch(r'", "(temperature|tint)": -?\d\d', taught)
        else:
            # The place of the look, and the word.
            look, _, word = taught.rpartition("</tool_call>")
            assert re.match(r"\d+, ", look)
            assert text.endswith(word)
            assert word.replace("<|im_end|>", "") in COLOURS
    # Their names and parameters are single tokens, so that a call stays short.
    assert len(codec.tokenizer("zoom", add_special_tokens=False)["input_ids"]) == 1
    assert len(codec.tokenizer('", "temperature": ', add_special_tokens=False)["input_ids"]) == 1
