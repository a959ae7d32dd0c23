"""Supervised examples have the tokens and masks of the rollout, and training on them lowers the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.images import ImageView
from agentfly.templates import ChatCodec
from agentfly.training.sft import IGNORED, Example, SFTConfig, make_example, train

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "brighten"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'


async def example_and_rollout(policy: Path, picture: Image.Image) -> tuple[Example, list[int], list[int]]:
    codec = ChatCodec.from_pretrained(str(policy))
    settings = AgentSettings(system_prompt=None)
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, ANSWER], codec=codec), settings=settings)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Brighter."}]
    trajectory = (await agent.run([{"role": "user", "content": content}]))[0]
    tokens = trajectory.tokens
    assert tokens is not None
    schemas = agent.toolset(ImageView(agent.store)).schemas()
    texts = [turn.text for turn in trajectory.turns]
    example = make_example(trajectory.messages, schemas, codec, agent.store.get, texts)
    return example, tokens.ids, [0] * len(tokens.prompt_ids) + tokens.mask


async def test_ids_and_mask_are_those_of_the_rollout(tiny_policy: Path, picture: Image.Image) -> None:
    example, ids, mask = await example_and_rollout(tiny_policy, picture)
    assert list(example.ids) == ids
    assert [int(label != IGNORED) for label in example.labels] == mask
    assert len(example.grids) == 2
    assert example.pixels.shape[0] == sum(t * h * w for t, h, w in example.grids)


async def test_an_example_can_end_with_the_words_that_count(tiny_policy: Path, picture: Image.Image) -> None:
    example, _, _ = await example_and_rollout(tiny_policy, picture)
    cut = example.ending_with(2)
    assert cut.ids == example.ids[:-1]
    assert cut.labels[-2:] == cut.ids[-2:]
    assert cut.labelled == 2


async def test_training_lowers_the_loss(tmp_path: Path, picture: Image.Image) -> None:
    from agentfly.datasets import vocabulary
    from agentfly.training.policy import PolicySize, build_policy

    size = PolicySize(layers=1, vision_layers=1)
    assert build_policy(tmp_path, vocabulary(), size=size) < 1_000_000
    example, _, _ = await example_and_rollout(tmp_path, picture)
    losses: list[float] = []
    config = SFTConfig(steps=12, batch_size=2, warmup=2)
    train(tmp_path, [example], config, on_step=lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.6 * losses[0]


async def test_an_unknown_policy_size_is_refused() -> None:
    from pydantic import ValidationError

    from agentfly.training.policy import PolicySize

    with pytest.raises(ValidationError):
        PolicySize(layer=3)  # type: ignore[call-arg]
