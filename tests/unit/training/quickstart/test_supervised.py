"""Supervised examples have the tokens and masks of the rollout, and training on them lowers the loss."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from agentfly.agents import AgentSettings, ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.images import ImageView
from agentfly.templates import ChatCodec
from agentfly.training.quickstart import supervised as room
from agentfly.training.quickstart.supervised import SFTConfig, train
from agentfly.training.supervised.data.examples import IGNORED, Example, ending_with, make_example
from agentfly.training.supervised.state import RunFolder

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "brighten"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'


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
    example = make_example(trajectory.messages, schemas, codec, agent.store.get, texts)
    return example, tokens.ids, [0] * len(tokens.prompt_ids) + tokens.mask


async def test_ids_and_mask_are_those_of_the_rollout(tiny_policy: Path, image: Image.Image) -> None:
    example, ids, mask = await example_and_rollout(tiny_policy, image)
    assert list(example.ids) == ids
    assert [int(label != IGNORED) for label in example.labels] == mask
    assert len(example.grids) == 2
    assert example.pixels.shape[0] == sum(t * h * w for t, h, w in example.grids)


async def test_an_example_can_end_with_the_words_that_count(tiny_policy: Path, image: Image.Image) -> None:
    example, _, _ = await example_and_rollout(tiny_policy, image)
    ids, labels = ending_with([*example.ids], 2)
    assert ids == list(example.ids[:-1])
    assert labels[-2:] == ids[-2:]
    assert {*labels[:-2]} == {IGNORED}


async def test_training_lowers_the_loss(tmp_path: Path, image: Image.Image) -> None:
    from agentfly.datasets import vocabulary
    from agentfly.training.quickstart.tiny_policy import PolicySize, build_policy

    size = PolicySize(layers=1, vision_layers=1)
    assert build_policy(tmp_path, vocabulary(), size=size) < 1_000_000
    example, _, _ = await example_and_rollout(tmp_path, image)
    losses: list[float] = []
    config = SFTConfig(steps=12, batch_size=2, warmup=2)
    train(tmp_path, [example], config, on_step=lambda step, loss: losses.append(loss))
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
    train(folders[0], [example], config)
    steps: list[int] = []

    def note(step: int, loss: float) -> None:
        steps.append(step)
        if len(steps) == 5:
            raise Killed

    state = RunFolder(folders[1] / "unfinished")
    with pytest.raises(Killed):
        train(folders[1], [example], config, state=state, on_step=note)
    train(folders[1], [example], config, state=state, on_step=note)
    assert steps == [1, 2, 3, 4, 5, 5, 6]
    whole, resumed = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


async def test_an_unknown_policy_size_is_refused() -> None:
    from pydantic import ValidationError

    from agentfly.training.quickstart.tiny_policy import PolicySize

    with pytest.raises(ValidationError):
        PolicySize(layer=3)  # type: ignore[call-arg]
