"""Chains of a scripted policy on a sticker task, with real tools and exact tokens: what the training glue works on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentfly.agents import AgentSettings, ImageEditingAgent, Rollout, RolloutLimits, Trajectory, task_conversation
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.datasets import EditTask, StickerWorld
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec

ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'
ANSWER_SOURCE = ANSWER.replace("img_2", "img_1")


def call(name: str, **arguments: Any) -> str:
    """A tool call as a policy writes it."""
    import json

    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def task_of(index: int = 0) -> EditTask:
    """A task that one call of `auto_inpaint_image` does."""
    return StickerWorld().task(index, "heldout", "named")


def good_edit(task: EditTask) -> str:
    """The call that does a task of `task_of`."""
    words = task.metadata["steps"][0]["detect"]
    return call(
        "auto_inpaint_image",
        image_id="img_1",
        detect_prompt=words,
        prompt="",
        box_threshold=0.6,
        auto_mask_dilate=4,
    )


def bad_edit() -> str:
    """An edit that does nothing of what a task asks, and spoils the rest."""
    return call("qwen_edit_image", image_id="img_1", prompt="brighten")


async def roll(
    task: EditTask, texts: Sequence[str], codec: ChatCodec | None = None, limits: RolloutLimits | None = None
) -> tuple[Trajectory, ImageStore]:
    """A finished chain and its images."""
    limits, store = limits or RolloutLimits(max_tokens_per_turn=200), ImageStore()
    backend = ScriptedBackend(list(texts), codec=codec)
    settings = AgentSettings(system_prompt=None, limits=limits)
    agent = ImageEditingAgent("scripted", backend=backend, store=store, settings=settings)
    chain = agent.chain(task_conversation(task), "group", 0)
    return await Rollout(backend, limits).run(chain), store
