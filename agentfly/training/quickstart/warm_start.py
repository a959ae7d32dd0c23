"""Make a policy that can call the tools, from demonstrations, with its own tokenizer, by the loop of `agentfly sft`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

import agentfly
from agentfly.agents import Trajectory
from agentfly.agents.policy_config import PolicyConfig
from agentfly.datasets import FAMILIES, StickerWorld, vocabulary
from agentfly.files import write_text
from agentfly.images import ImageStore, load_image
from agentfly.messages import ImagePart, Message, TextPart, text_message
from agentfly.model_source import SHIPPED_POLICY
from agentfly.settings import Settings
from agentfly.templates import ChatCodec
from agentfly.training.launch.subprocess_phase import OnProgress
from agentfly.training.quickstart.tiny_policy import (
    CALL_TOKENS,
    MORE_CALL_TOKENS,
    PolicySize,
    build_policy,
    image_processor,
)
from agentfly.training.supervised.data.batches import Collator
from agentfly.training.supervised.data.demonstrations import (
    PLAYED_TOGETHER,
    SEEN_FAMILIES,
    DemonstrationMix,
    Demonstrations,
    SeenCall,
    seeing,
    seen_calls,
    tool_schemas,
)
from agentfly.training.supervised.data.examples import IGNORED, Schemas, Trainables, conversation_ids, ending_with
from agentfly.training.supervised.data.packed import PackedExamples, Packer
from agentfly.training.supervised.loop import Loop, LoopConfig, Step
from agentfly.training.supervised.state import RunFolder

logger = logging.getLogger(__name__)

OnLoss = Callable[[int, float], None]  # step, from 1, and its loss

RECORD = "warm_start.json"  # settings of a finished warm start, written last, beside the weights
UNFINISHED = "unfinished"  # folder of the examples and the newest checkpoint, removed at the end
EXAMPLES = "examples.npz"
SHIPPED = SHIPPED_POLICY
FIGURES = "figures.json"  # held-out figures of the shipped warm start
_CORPUS = 1000  # demonstrations that the tokenizer learns from; more have no other words
_SAVE_EVERY = 25  # training steps
_PLACE = re.compile(r'"(?:box": \[|x": )')  # of a look; what stands before it is the choice of the tool


class SFTConfig(LoopConfig):
    """Settings of the warm start's training.

    Attributes:
        micro_batch: small, so that little of it is padding. Batches drawn by length have even less padding, but each
            teaches something else: second calls were copied from 55 % of held-out sentences instead of 84 %.
        learning_rate: peak for matrices (Muon, scaled to the step size of AdamW).
        vector_learning_rate: the same for embeddings, biases and norms (AdamW).
    """

    labelled_logits: bool = True
    micro_batch: int = 4
    learning_rate: float = 6e-3
    vector_learning_rate: float = 3e-3


class WarmStartConfig(Settings):
    """Settings of a warm start.

    Attributes:
        demonstrations: chains played by `Demonstrator`.
        families: number of tasks of each type in one turn. The words of a second step are copied from sentences with
            two objects and two colours, and that takes the most sentences to learn.
        looks: tasks of which the words that only an image shows are taught alone: look tasks by `seeing`, or those of
            `SEEN_FAMILIES` among the families by `seen_calls`, in turn.
        mix: distributions that the demonstrations draw from.
        size: of the policy.
        sft: supervised training, on demonstrations and looks together.
        card: settings with which the policy is run as an agent, its tools among them.
        seed: of everything.
    """

    demonstrations: int = 4800
    families: Mapping[str, int] = {"named": 1, "replace": 2, "look": 1, "two_step": 3, "repair": 1}
    looks: int = 3000
    mix: DemonstrationMix = DemonstrationMix()
    size: PolicySize = PolicySize()
    sft: SFTConfig = SFTConfig(steps=750)
    card: PolicyConfig = PolicyConfig(system_prompt=None, max_turns=4, max_tokens_per_turn=32)
    seed: int = 0


def warm_start(config: WarmStartConfig, folder: Path, on_progress: OnProgress | None = None) -> Path:
    """Build and warm-start a policy, or resume an unfinished warm start of the same settings.

    Args:
        config: see `WarmStartConfig`.
        folder: gets the policy as a Hugging Face folder.
        on_progress: called with phase ("demonstrations", "looks", "supervised"), done and total.

    Returns:
        The folder.
    """
    report = on_progress or (lambda phase, done, total: None)
    work, record = folder / UNFINISHED, _record(config)
    if is_begun(folder, config):
        examples = PackedExamples.load(work / EXAMPLES)
    else:
        shutil.rmtree(work, ignore_errors=True)
        (folder / RECORD).unlink(missing_ok=True)
        work.mkdir(parents=True)
        with one_thread_an_operation():
            examples = _prepare(config, folder, report)
        examples.save(work / EXAMPLES)
        write_text(work / RECORD, record)
    sft = config.sft.model_copy(update={"seed": config.seed})

    def on_step(step: int, loss: float) -> None:
        report("supervised", step, sft.steps)

    train(folder, examples, sft, RunFolder(work), on_step)
    config.card.write(folder)
    write_text(folder / RECORD, record)
    shutil.rmtree(work)
    return folder


def is_warm_start(folder: Path, config: WarmStartConfig) -> bool:
    """Return True if a folder holds the finished warm start of these settings, made by this version."""
    return _matches(folder / RECORD, config)


def is_begun(folder: Path, config: WarmStartConfig) -> bool:
    """Return True if a folder holds an unfinished warm start of these settings that can be resumed."""
    return _matches(folder / UNFINISHED / RECORD, config)


def shipped_warm_start(config: WarmStartConfig) -> Path | None:
    """Return the warm start of the repository; None where it is missing or has other settings."""
    try:
        record = json.loads((SHIPPED / RECORD).read_text(encoding="utf-8"))
    except OSError:
        return None
    # A setting that is newer than the record had its default then.
    found = WarmStartConfig(**{name: value for name, value in record.items() if name != "agentfly"})
    return SHIPPED if found == config else None


def copy_shipped(shipped: Path, folder: Path) -> None:
    """Copy the shipped policy without its record, so that it does not count as one that was made here.

    Args:
        shipped: see `shipped_warm_start`.
        folder: replaced by the copy.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns(RECORD, FIGURES))


def _matches(record: Path, config: WarmStartConfig) -> bool:
    try:
        return record.read_text(encoding="utf-8") == _record(config)
    except OSError:
        return False


def _record(config: WarmStartConfig) -> str:
    return json.dumps({"agentfly": agentfly.__version__, **config.model_dump(mode="json")}, indent=2) + "\n"


def _prepare(config: WarmStartConfig, folder: Path, report: OnProgress) -> PackedExamples:
    """Play the demonstrations, build the untrained policy on their words, and pack all examples."""
    packer = Packer(image_processor(config.size))
    shown = _demonstrations(config, packer, report)
    more = not set(config.families) <= set(FAMILIES)
    tokens = CALL_TOKENS + MORE_CALL_TOKENS if more else CALL_TOKENS
    corpus = _corpus(shown[:_CORPUS]) + (vocabulary(more) if more else [])
    build_policy(folder, corpus, size=config.size, seed=config.seed, call_tokens=tokens)
    codec = ChatCodec.from_pretrained(str(folder))
    schemas = asyncio.run(tool_schemas(config.card.spec))
    side = StickerWorld().side
    # A codec needs only the size, and all images of the world have the same.
    blank = Image.new("RGB", (side, side))
    for trajectory in shown:
        texts = [turn.text for turn in trajectory.turns]
        packer.add(*conversation_ids(trajectory.messages, schemas, codec, lambda _: blank, texts))
    add = _add_seen if set(config.families) & set(SEEN_FAMILIES) else _add_looks
    add(config, packer, schemas, codec, blank, report)
    return packer.packed()


def _demonstrations(config: WarmStartConfig, packer: Packer, report: OnProgress) -> list[Trajectory]:
    """Play the demonstrations on all cores, and keep their images only in the packer."""
    families = tuple(family for family, count in config.families.items() for _ in range(count))
    prompt, spec = config.card.system_prompt, config.card.spec
    source = Demonstrations(config.demonstrations, families, config.mix, config.seed, prompt, spec)
    shown: list[Trajectory] = []
    for played, images in source.batches(cores()):
        packer.add_images(images)
        shown += played
        report("demonstrations", len(shown), config.demonstrations)
    return shown


def _corpus(trajectories: Sequence[Trajectory]) -> list[str]:
    """Return the texts that the tokenizer is trained on: those of the demonstrations, and all words of the world."""
    texts = [message.text for t in trajectories for message in t.messages if message.role != "assistant"]
    texts += [
        value for t in trajectories for r in t.tool_records for value in r.arguments.values() if isinstance(value, str)
    ]
    return texts + vocabulary() + ["system\n", "user\n", "assistant\n", json.dumps({"a": 0.5})] * 4


def _add_looks(
    config: WarmStartConfig,
    packer: Packer,
    schemas: Schemas,
    codec: ChatCodec,
    blank: Image.Image,
    report: OnProgress,
) -> None:
    """Pack the look tasks, each up to the one word that only the image shows."""
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
            report("looks", index + 1, config.looks)
    for look in looks:
        packer.add(*look)


def _add_seen(
    config: WarmStartConfig,
    packer: Packer,
    schemas: Schemas,
    codec: ChatCodec,
    blank: Image.Image,
    report: OnProgress,
) -> None:
    """Pack calls of the families in which looking or retouching pays, each up to the words that only an image shows."""
    world, rng = StickerWorld(), random.Random(f"seeing-{config.seed}")
    turn = [family for family, count in config.families.items() for _ in range(count) if family in SEEN_FAMILIES]
    prompt, spec, packed = config.card.system_prompt, config.card.spec, []
    for start in range(0, config.looks, PLAYED_TOGETHER):
        numbers = range(start, min(start + PLAYED_TOGETHER, config.looks))
        tasks = [world.task(10_000_000 + n, "train", turn[n % len(turn)], seed=config.seed) for n in numbers]
        store = ImageStore()
        calls = asyncio.run(seen_calls(tasks, config.mix, store, rng, system_prompt=prompt, spec=spec))
        for call in calls:
            ids, labels, handles = seen_example(call, schemas, codec, blank)
            packed.append((ids, labels, handles))
            packer.add_images({handle: store.get(handle) for handle in handles})
        report("looks", len(packed), config.looks)
    for example in packed:
        packer.add(*example)


def seen_example(
    call: SeenCall, schemas: Schemas, codec: ChatCodec, blank: Image.Image
) -> tuple[list[int], list[int], list[str]]:
    """Return ids, labels and image handles of a chain up to the words that only its images show.

    These words are taught, and the numbers of a look before them, since the sentence names the place. Whether to look,
    and with which tool, is left to the demonstrations.

    Args:
        call: the chain.
        schemas: of the tools.
        codec: of the policy.
        blank: stands for every image; only its size counts.
    """

    def length(text: str) -> int:
        return len(codec.tokenizer(text, add_special_tokens=False)["input_ids"])

    texts = [*call.turns[:-1], call.turns[-1] + call.words]
    looked = [True] * (len(texts) - 1) + [False]
    ids, labels, handles = conversation_ids(call.messages, schemas, codec, lambda _: blank, texts, looked)
    if len(texts) > 1 and (place := _PLACE.search(texts[0])):
        begin = next(n for n, label in enumerate(labels) if label != IGNORED)
        spans = codec.tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        choice = sum(start < place.end() for start, _ in spans)
        labels[begin : begin + choice] = [IGNORED] * choice
    kept, last = ending_with(ids, length(call.words))
    return kept, labels[: len(kept) - length(call.words)] + last[-length(call.words) :], handles


def train(
    policy: Path, examples: Trainables, config: SFTConfig, state: RunFolder, on_step: OnLoss | None = None
) -> None:
    """Train a policy folder in place on all cores of this process.

    Args:
        policy: Hugging Face folder.
        examples: drawn at random, each epoch in a new order.
        config: see `SFTConfig`.
        state: folder of the checkpoints, from which a stopped training resumes.
        on_step: called with the step (from 1) and its loss.

    Raises:
        ConfigError: `state` holds another run.
    """
    state.open({"config": config.model_dump(mode="json"), "examples": len(examples)}, resume=True)
    loop = _load(policy, config)
    begun, done = time.monotonic(), state.restore(loop)

    def note(step: Step) -> None:
        state.log(asdict(step))
        if step.step % _SAVE_EVERY == 0:
            state.save(loop, step.step)
        if on_step is not None:
            on_step(step.step, step.loss)

    with one_thread_an_operation():
        loop.run(examples, note, done=done)
    loop.model.save_pretrained(policy)
    seconds, loss = time.monotonic() - begun, state.metrics()[-1]["loss"]
    logger.info("supervised: %d steps in %.0f s, loss %.3f", config.steps - done, seconds, loss)


def _load(policy: Path, config: SFTConfig) -> Loop:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from agentfly.training.quickstart.muon import muon_and_adamw

    processor = AutoProcessor.from_pretrained(policy)
    model = AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32, attn_implementation="sdpa")
    optimisers = muon_and_adamw(model, config.learning_rate, config.vector_learning_rate)
    workers = max(1, min(cores(), config.batch_size // config.micro_batch))
    return Loop(model, optimisers, config, Collator.of(model, processor), workers=workers)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread_an_operation() -> Iterator[None]:
    """Compute each torch operation on the thread that calls it.

    The operations of a tiny policy take microseconds. Threads that share an operation spin until the last of them is
    done: where other work had one of the cores, single steps took 13 times as long.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
