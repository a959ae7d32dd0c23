"""Chains on the real tools: a script plays sticker tasks, now well, now badly, and some of its turns are broken."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer

from agentfly.agents import AgentSettings, Trajectory
from agentfly.agents.chain import RolloutLimits
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import Generation, GenerationRequest, ScriptedBackend
from agentfly.agents.spec import DEFAULT
from agentfly.agents.tasks import EvaluationSetup, score_trajectory, task_conversation
from agentfly.agents.token_check import TokenTrace
from agentfly.datasets import FAMILIES, EditTask, StickerWorld
from agentfly.datasets.photos import Split
from agentfly.errors import BackendError
from agentfly.evaluators.measured.reference import ReferenceEvaluator
from agentfly.images import ImageStore
from agentfly.messages import ImagePart, Message
from agentfly.training.quickstart.warm_start import SHIPPED
from agentfly.training.supervised.data.demonstrators import EXPERT, DemonstrationMix, call_text, demonstrator
from agentfly.vision.shapes import COLOURS

TURNS = 5  # of a chain, at most
_PATCH = 28  # pixels of an image, in each direction, that become one placeholder
FAULTS: Mapping[str, float] = {"malformed": 0.5, "unknown": 0.15, "silent": 0.15, "endless": 0.15, "outage": 0.05}
_THOUGHTS = ("I look first.", "The red one is top left.", "This is done.", "Now the other one.")


@dataclass(frozen=True)
class Policy:
    """How well the script plays.

    Attributes:
        skill: 0 draws tools and thresholds at random, 1 takes the best ones.
        faults: share of the chains with a broken turn.
        seed: of all draws.
    """

    skill: float = 0.5
    faults: float = 0.1
    seed: int = 0


def tasks_of(
    count: int, families: Sequence[str] = FAMILIES, *, split: Split = "train", first: int = 0, side: int = 168
) -> list[EditTask]:
    """Return tasks of the sticker world, families in turn; `side` is the width and height of an image in pixels."""
    world = StickerWorld(side)
    return [world.task(index, split, families[index % len(families)]) for index in range(first, first + count)]


def play(
    tasks: Sequence[EditTask],
    groups: Sequence[str],
    number: int,
    store: ImageStore,
    policy: Policy,
) -> list[list[Trajectory]]:
    """Play and score chains, all at once.

    Args:
        tasks: of the sticker world.
        groups: the name of the chains of each task.
        number: chains of each task.
        store: gets their images.
        policy: plays them.

    Returns:
        The chains of each task. Those of an outage have no score.
    """
    return asyncio.run(_play(tasks, groups, number, store, policy))


async def _play(
    tasks: Sequence[EditTask], groups: Sequence[str], number: int, store: ImageStore, policy: Policy
) -> list[list[Trajectory]]:
    rng = random.Random(policy.seed)
    scripts = {
        f"{group}-{chain}": _Script(task, policy, random.Random(rng.random()))
        for task, group in zip(tasks, groups, strict=True)
        for chain in range(number)
    }
    backend = ScriptedBackend(lambda request: scripts[request.session_id](request))
    settings = AgentSettings(limits=RolloutLimits(max_turns=TURNS), system_prompt=None)
    agent = make_agent(DEFAULT, "made up", backend=backend, store=store, settings=settings)
    try:
        asked = [
            {**task_conversation(task), "id": group, "task_id": task.id}
            for task, group in zip(tasks, groups, strict=True)
        ]
        found = list(await agent.run(asked, num_chains=number))
    finally:
        await agent.close()
    chains = [found[place * number : (place + 1) * number] for place in range(len(tasks))]
    setup = EvaluationSetup(ReferenceEvaluator())
    for task, group, several in zip(tasks, groups, chains, strict=True):
        for place, chain in enumerate(several):
            chain.id, chain.group_id, chain.metadata["id"] = f"{group}-{place}", group, task.id
            chain.metadata.pop("task_id", None)
            add_tokens(chain, store, rng)
            if not chain.failed:
                await score_trajectory(chain, task, store, setup)
    return chains


class _Script:
    """The turns of one chain."""

    def __init__(self, task: EditTask, policy: Policy, rng: random.Random) -> None:
        mix = EXPERT if rng.random() < policy.skill else DemonstrationMix()
        self._play = demonstrator(task, random.Random(rng.random()), mix, tuple(COLOURS), ())
        self._rng, self._turn = rng, 0
        self._fault = rng.choices(list(FAULTS), list(FAULTS.values()))[0] if rng.random() < policy.faults else None

    def __call__(self, request: GenerationRequest) -> str | Generation:
        self._turn += 1
        if self._fault == "endless":
            return call_text("detect_objects", {"image_id": "img_1", "text_prompt": "red", "box_threshold": 0.1})
        if self._fault is not None and self._turn == 2:
            fault, self._fault = self._fault, None
            if fault == "outage":
                raise BackendError("the engine does not answer: http://127.0.0.1:8100/v1/completions")
            if fault == "silent":
                return "I cannot do that."
            if fault == "unknown":
                return call_text("erase_object", {"image_id": "img_1", "words": "the red circle"})
            return '<tool_call>{"name": "auto_inpaint_image", "arguments": {"image_id": "img_1", </tool_call>'
        thought = f"{self._rng.choice(_THOUGHTS)} " if self._rng.random() < 0.4 else ""
        return thought + self._play(request)


def add_tokens(chain: Trajectory, store: ImageStore, rng: random.Random) -> None:
    """Add the ids of a chain as the warm start's tokenizer splits it, with log-probs that are drawn at random."""
    tokenizer, turns = _tokenizer(), iter(list(chain.turns))
    first = next((i for i, message in enumerate(chain.messages) if message.role == "assistant"), len(chain.messages))
    prompt = "".join(_text(message, store, chain.names) for message in chain.messages[:first])
    trace = TokenTrace(tokenizer.encode(f"{prompt}<|im_start|>assistant\n").ids)
    spans = list[tuple[int, int]]()
    for message in chain.messages[first:]:
        if message.role == "assistant" and (turn := next(turns, None)) is not None:
            ids = tokenizer.encode(f"{turn.text}<|im_end|>").ids
            spans.append(trace.add_sampled(ids, [-min(9.0, rng.expovariate(2.5)) for _ in ids]))
        else:
            text = f"\n{_text(message, store, chain.names)}<|im_start|>assistant\n"
            trace.add_observation(tokenizer.encode(text).ids)
    for place, (start, end) in enumerate(spans):
        # Frozen, as the rollout leaves it; the ids come later only here.
        for name, value in (("start", start), ("end", end), ("completion_tokens", end - start)):
            object.__setattr__(chain.turns[place], name, value)
    chain.tokens = trace
    chain.seconds = math.fsum(turn.seconds for turn in chain.turns) + 0.01


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))


def _text(message: Message, store: ImageStore, names: Mapping[str, str]) -> str:
    """Return a message as the compact template writes it, with a placeholder for each patch of an image."""
    said = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            image = store.get(part.handle)
            patches = max(1, (image.width // _PATCH) * (image.height // _PATCH))
            said.append(f"<|vision_start|>{'<|image_pad|>' * patches}<|vision_end|>")
        else:
            said.append(part.text)
    body = "".join(said)
    if message.role == "tool":
        body = f"<tool_response>{body}</tool_response>"
    role = "user" if message.role == "tool" else message.role
    return f"<|im_start|>{role}\n{body}<|im_end|>\n"
