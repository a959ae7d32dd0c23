"""Make a policy that can call the tools from nothing: demonstrations, tokenizer, supervised training."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict

import agentfly
from agentfly.agents import ImageEditingAgent, Trajectory
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.policy_config import AgentCard
from agentfly.datasets import StickerWorld, vocabulary
from agentfly.files import write_text
from agentfly.images import ImageStore, ImageView, load_image
from agentfly.messages import ImagePart, Message, TextPart, text_message
from agentfly.templates import ChatCodec
from agentfly.training.launch.subprocess_phase import OnProgress
from agentfly.training.quickstart.supervised import SFTConfig, one_thread_an_operation, train
from agentfly.training.quickstart.tiny_policy import PolicySize, build_policy, image_processor
from agentfly.training.supervised.data.demonstrations import PLAYED_TOGETHER, DemonstrationMix, play, seeing
from agentfly.training.supervised.data.examples import conversation_ids, ending_with
from agentfly.training.supervised.data.packed import PackedExamples, Packer
from agentfly.training.supervised.state import RunFolder

RECORD = "warm_start.json"  # beside the weights, written last: the settings that they were made with
UNFINISHED = "unfinished"  # until then: the examples, and the newest checkpoint
EXAMPLES = "examples.npz"
SHIPPED = Path(agentfly.__file__).parents[1] / "data" / "warm_start"
FIGURES = "figures.json"  # held-out figures of the one that is shipped
_CORPUS = 1000  # demonstrations that the tokenizer learns from; more have no other words


class WarmStartConfig(BaseModel):
    """Settings of a warm start.

    Attributes:
        demonstrations: chains played by `Demonstrator`.
        families: how many of them, in turn, are of each task type. The words of a second step are copied from
            sentences that have two objects and two colours, and that takes the most sentences to learn.
        looks: look tasks of which `seeing` shows the word that the image tells.
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
    """Build and warm-start a policy, or go on with a warm start of the same settings that was stopped there.

    Args:
        config: see `WarmStartConfig`.
        folder: gets the policy as a Hugging Face folder.
        on_progress: called with phase ("demonstrations", "looks", "supervised"), done and total.

    Returns:
        The folder.
    """
    tell = on_progress or (lambda phase, done, total: None)
    work, record = folder / UNFINISHED, _record(config)
    if is_begun(folder, config):
        examples = PackedExamples.load(work / EXAMPLES)
    else:
        shutil.rmtree(work, ignore_errors=True)
        (folder / RECORD).unlink(missing_ok=True)
        work.mkdir(parents=True)
        with one_thread_an_operation():
            examples = _prepare(config, folder, tell)
        examples.save(work / EXAMPLES)
        write_text(work / RECORD, record)
    sft = config.sft.model_copy(update={"seed": config.seed})
    train(folder, examples, sft, state=RunFolder(work), on_step=lambda step, loss: tell("supervised", step, sft.steps))
    config.card.write(folder)
    write_text(folder / RECORD, record)
    shutil.rmtree(work)
    return folder


def is_warm_start(folder: Path, config: WarmStartConfig) -> bool:
    """Whether a folder holds the finished warm start of these settings, made by this version."""
    return _reads(folder / RECORD, config)


def is_begun(folder: Path, config: WarmStartConfig) -> bool:
    """Whether a folder holds a warm start of these settings that was stopped and can be gone on with."""
    return _reads(folder / UNFINISHED / RECORD, config)


def shipped_warm_start(config: WarmStartConfig) -> Path | None:
    """The warm start that comes with the repository; None where it does not, or where it has other settings."""
    try:
        record = json.loads((SHIPPED / RECORD).read_text(encoding="utf-8"))
    except OSError:
        return None
    return SHIPPED if {**record, "agentfly": ""} == {"agentfly": "", **config.model_dump(mode="json")} else None


def copy_shipped(shipped: Path, folder: Path) -> None:
    """Copy the policy without its record, so that nobody takes it for one that was made here."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns(RECORD, FIGURES))


def _reads(record: Path, config: WarmStartConfig) -> bool:
    try:
        return record.read_text(encoding="utf-8") == _record(config)
    except OSError:
        return False


def _record(config: WarmStartConfig) -> str:
    return json.dumps({"agentfly": agentfly.__version__, **config.model_dump(mode="json")}, indent=2) + "\n"


def _prepare(config: WarmStartConfig, folder: Path, tell: OnProgress) -> PackedExamples:
    """Play the demonstrations, build the untrained policy on their words, and pack everything it is to learn."""
    packer = Packer(image_processor(config.size))
    shown = asyncio.run(_demonstrations(config, packer, tell))
    build_policy(folder, _corpus(shown[:_CORPUS]), size=config.size, seed=config.seed)
    codec = ChatCodec.from_pretrained(str(folder))
    schemas = (
        ImageEditingAgent("demonstrations", backend=ScriptedBackend([])).toolset(ImageView(ImageStore())).schemas()
    )
    side = StickerWorld().side
    # A codec asks for the size only, and all images of the world have the same.
    blank = Image.new("RGB", (side, side))
    for trajectory in shown:
        texts = [turn.text for turn in trajectory.turns]
        packer.add(*conversation_ids(trajectory.messages, schemas, codec, lambda _: blank, texts))
    _looks(config, packer, schemas, codec, blank, tell)
    return packer.packed()


async def _demonstrations(config: WarmStartConfig, packer: Packer, tell: OnProgress) -> list[Trajectory]:
    """Play a batch at a time and keep the images only in the packer: tasks and stores of all would take gigabytes."""
    world, shown = StickerWorld(), []
    turn = [family for family, count in config.families.items() for _ in range(count)]
    rng = random.Random(f"demonstrations-{config.seed}")
    for start in range(0, config.demonstrations, PLAYED_TOGETHER):
        indices = range(start, min(start + PLAYED_TOGETHER, config.demonstrations))
        tasks = [world.task(index, "train", turn[index % len(turn)], seed=config.seed) for index in indices]
        store = ImageStore()
        played = await play(tasks, config.mix, store, rng, system_prompt=config.card.system_prompt)
        packer.add_images({handle: store.get(handle) for trajectory in played for handle in trajectory.images})
        shown += played
        tell("demonstrations", len(shown), config.demonstrations)
    return shown


def _corpus(trajectories: Sequence[Trajectory]) -> list[str]:
    """What the tokenizer must know: every text of the demonstrations, and all words of the world."""
    texts = [message.text for t in trajectories for message in t.messages if message.role != "assistant"]
    texts += [
        value for t in trajectories for r in t.tool_records for value in r.arguments.values() if isinstance(value, str)
    ]
    return texts + vocabulary() + ["system\n", "user\n", "assistant\n", json.dumps({"a": 0.5})] * 4


def _looks(
    config: WarmStartConfig,
    packer: Packer,
    schemas: Sequence[dict[str, Any]],
    codec: ChatCodec,
    blank: Image.Image,
    tell: OnProgress,
) -> None:
    world, rng, images = StickerWorld(), random.Random(f"seeing-{config.seed}"), {}
    looks = []
    for index in range(config.looks):
        task = world.task(10_000_000 + index, "train", "look", seed=config.seed)
        begin, word = seeing(task, rng, config.mix)
        user = Message("user", (TextPart("img_1: "), ImagePart(task.id), TextPart(f"\n{task.instruction}")))
        turn = (user, text_message("assistant", ""))
        ids, _, handles = conversation_ids(turn, schemas, codec, lambda _: blank, [begin + word])
        looks.append((*ending_with(ids, len(codec.tokenizer(word, add_special_tokens=False)["input_ids"])), handles))
        images[task.id] = load_image(task.images[0])
        if len(images) == PLAYED_TOGETHER or index + 1 == config.looks:
            packer.add_images(images)
            images = {}
            tell("looks", index + 1, config.looks)
    for look in looks:
        packer.add(*look)
