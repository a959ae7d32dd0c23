"""From nothing to a policy that speaks the language of the tools: demonstrations, tokenizer, supervised training."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict

from agentfly import __version__
from agentfly.agents import ImageEditingAgent, Trajectory
from agentfly.agents.card import AgentCard
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.datasets import StickerWorld, vocabulary
from agentfly.files import write_text
from agentfly.images import ImageStore, ImageView, load_image
from agentfly.messages import ImagePart, Message, TextPart, text_message
from agentfly.templates import ChatCodec
from agentfly.training.demonstrations import DemonstrationMix, play, seeing
from agentfly.training.phase import OnProgress
from agentfly.training.policy import PolicySize, build_policy
from agentfly.training.sft import Example, SFTConfig, make_example, train

RECORD = "warm_start.json"  # beside the weights, written last: the settings that they were made with


class WarmStartConfig(BaseModel):
    """Settings of a warm start.

    Attributes:
        demonstrations: chains played by `Demonstrator`.
        families: how many of them, in turn, are of each task type. The words of a second step are copied from
            sentences that have two objects and two colours, and that takes the most sentences to learn.
        looks: look tasks of which `seeing` shows the word that the picture tells.
        mix: what demonstrations draw from.
        size: of the policy.
        sft: supervised training, on demonstrations and looks together.
        card: how the policy is run as an agent.
        seed: of everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    demonstrations: int = 4800
    families: Mapping[str, int] = {"named": 1, "replace": 2, "look": 1, "two_step": 3, "repair": 1}
    looks: int = 3000
    mix: DemonstrationMix = DemonstrationMix()
    size: PolicySize = PolicySize()
    sft: SFTConfig = SFTConfig(steps=750)
    card: AgentCard = AgentCard(system_prompt=None, max_turns=4, max_tokens_per_turn=32)
    seed: int = 0


def warm_start(config: WarmStartConfig, folder: Path, on_progress: OnProgress | None = None) -> Path:
    """Build and warm-start a policy.

    Args:
        config: see `WarmStartConfig`.
        folder: gets the policy as a Hugging Face folder.
        on_progress: called with phase ("demonstrations", "looks", "supervised"), done and total.

    Returns:
        The folder.
    """
    tell = on_progress or (lambda phase, done, total: None)
    (folder / RECORD).unlink(missing_ok=True)
    world, store = StickerWorld(), ImageStore(max_bytes=2**30)
    turn = [family for family, count in config.families.items() for _ in range(count)]
    tasks = [
        world.task(index, "train", turn[index % len(turn)], seed=config.seed) for index in range(config.demonstrations)
    ]
    prompt = config.card.system_prompt
    shown = asyncio.run(play(tasks, config.mix, store, seed=config.seed, system_prompt=prompt, tell=tell))
    build_policy(folder, _corpus(shown), size=config.size, seed=config.seed)
    codec = ChatCodec.from_pretrained(str(folder))
    schemas = ImageEditingAgent("demonstrations", backend=ScriptedBackend([])).toolset(ImageView(store)).schemas()
    examples = [make_example(t.messages, schemas, codec, store.get, [turn.text for turn in t.turns]) for t in shown]
    examples += _looks(world, schemas, codec, config, tell)
    sft = config.sft.model_copy(update={"seed": config.seed})
    train(folder, examples, sft, on_step=lambda step, loss: tell("supervised", step, sft.steps))
    config.card.write(folder)
    write_text(folder / RECORD, _record(config))
    return folder


def is_warm_start(folder: Path, config: WarmStartConfig) -> bool:
    """Whether a folder holds the finished warm start of these settings, made by this version."""
    try:
        return (folder / RECORD).read_text(encoding="utf-8") == _record(config)
    except OSError:
        return False


def _record(config: WarmStartConfig) -> str:
    return json.dumps({"agentfly": __version__, **config.model_dump(mode="json")}, indent=2) + "\n"


def _corpus(trajectories: Sequence[Trajectory]) -> list[str]:
    """What the tokenizer must know: every text of the demonstrations, and all words of the world."""
    texts = [message.text for t in trajectories for message in t.messages if message.role != "assistant"]
    texts += [
        value for t in trajectories for r in t.tool_records for value in r.arguments.values() if isinstance(value, str)
    ]
    return texts + vocabulary() + ["system\n", "user\n", "assistant\n", json.dumps({"a": 0.5})] * 4


def _looks(
    world: StickerWorld, schemas: Sequence[dict[str, Any]], codec: ChatCodec, config: WarmStartConfig, tell: OnProgress
) -> list[Example]:
    rng, examples = random.Random(f"seeing-{config.seed}"), []
    for index in range(config.looks):
        task = world.task(10_000_000 + index, "train", "look", seed=config.seed)
        begin, word = seeing(task, rng, config.mix)
        user = Message("user", (TextPart("img_1: "), ImagePart("picture"), TextPart(f"\n{task.instruction}")))
        image = load_image(task.images[0])

        def picture(_: str, image: Image.Image = image) -> Image.Image:
            return image

        # A codec remembers picture sizes by handle; all pictures of the world have one size.
        example = make_example((user, text_message("assistant", "")), schemas, codec, picture, [begin + word])
        examples.append(example.ending_with(len(codec.tokenizer(word, add_special_tokens=False)["input_ids"])))
        tell("looks", index + 1, config.looks)
    return examples
