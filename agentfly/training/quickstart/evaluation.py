"""A policy on held-out sticker tasks through `agent.run()` with vLLM: greedy, sampled, and with blanked images.

One engine serves all passes. Every pass leaves one JSONL file of trajectories; the images of the first tasks of each
family are kept for the report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ConfigDict

from agentfly.agents import AgentSettings, EvaluationSetup, ImageEditingAgent, RolloutLimits, Trajectory
from agentfly.agents.llm_backends import (
    AsyncVLLMBackend,
    AsyncVLLMConfig,
    Generation,
    GenerationRequest,
    LLMBackend,
    OnDelta,
    SamplingParams,
)
from agentfly.agents.policy_config import AgentCard
from agentfly.agents.trajectory_file import TrajectoryLine, read_trajectories
from agentfly.datasets import FAMILIES, EditTask, StickerWorld
from agentfly.evaluation.in_memory import Evaluation, evaluate_agent
from agentfly.evaluators import ReferenceEvaluator
from agentfly.images import ImageStore
from agentfly.training.launch.subprocess_phase import OnProgress

GREY = (122, 117, 104)  # the mean colour that Qwen's image processor subtracts


class EvaluationPlan(BaseModel):
    """What to evaluate.

    Attributes:
        tasks_per_family: held-out tasks of each family.
        families: which families.
        kept_per_family: tasks of each family whose images are kept.
        blanked: also run look tasks with every image replaced by grey.
        seed: of the tasks and of the sampled pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks_per_family: int = 100
    families: tuple[str, ...] = tuple(FAMILIES)
    kept_per_family: int = 16
    blanked: bool = False
    seed: int = 0

    def tasks(self) -> list[EditTask]:
        """The held-out tasks, families in turn; the same for every policy."""
        world = StickerWorld()
        return [
            world.task(index, "heldout", family, seed=self.seed)
            for index in range(self.tasks_per_family)
            for family in self.families
        ]


class Blinded:
    """A backend whose model sees grey instead of every image; the tools still work on the real ones."""

    def __init__(self, backend: LLMBackend) -> None:
        self._backend = backend
        self.codec = backend.codec

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """One turn; see `LLMBackend.generate`."""
        load = request.load_image
        if load is not None:
            request = replace(request, load_image=lambda handle: Image.new("RGB", load(handle).size, GREY))
        return await self._backend.generate(request, on_delta)

    async def close(self) -> None:
        """Close the real backend."""
        await self._backend.close()


def evaluate_policy(policy: Path, out: Path, plan: EvaluationPlan, on_progress: OnProgress | None = None) -> None:
    """Run the plan and write `greedy.jsonl`, `sampled.jsonl` (and `blanked.jsonl`) with `images/` into `out`."""
    asyncio.run(_evaluate(policy, out, plan, on_progress or (lambda phase, done, total: None)))


async def _evaluate(policy: Path, out: Path, plan: EvaluationPlan, tell: OnProgress) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tasks, backend = plan.tasks(), AsyncVLLMBackend(str(policy), AsyncVLLMConfig(max_model_len=1024, max_num_seqs=128))
    passes: list[tuple[str, LLMBackend, Sequence[EditTask], float]] = [
        ("greedy", backend, tasks, 0.0),
        ("sampled", backend, tasks, 1.0),
    ]
    if plan.blanked:
        looks = [task for task in tasks if task.task_type == "look"]
        passes.append(("blanked", Blinded(backend), looks, 0.0))
    total, done = sum(len(chosen) for _, _, chosen, _ in passes), 0
    try:
        for name, model, chosen, temperature in passes:
            agent = _agent(policy, model, temperature, plan.seed)
            trajectories: list[Trajectory] = []
            for start in range(0, len(chosen), 100):
                batch = chosen[start : start + 100]
                evaluation = await evaluate_agent(agent, batch, EvaluationSetup(ReferenceEvaluator()))
                trajectories += evaluation.trajectories
                tell("evaluation", done := done + len(batch), total)
            _write(out, name, trajectories, agent.store, plan)
    finally:
        await backend.close()


def _agent(policy: Path, backend: LLMBackend, temperature: float, seed: int) -> ImageEditingAgent:
    card = AgentCard.read(str(policy))
    limits = RolloutLimits(max_turns=card.max_turns, max_tokens_per_turn=card.max_tokens_per_turn)
    sampling = SamplingParams(temperature=temperature, max_tokens=card.max_tokens_per_turn, seed=seed)
    return ImageEditingAgent(
        str(policy),
        backend=backend,
        settings=AgentSettings(
            system_prompt=card.system_prompt, limits=limits, sampling=sampling, max_concurrent_chains=128
        ),
    )


def _write(out: Path, name: str, trajectories: Sequence[Trajectory], store: ImageStore, plan: EvaluationPlan) -> None:
    with (out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for trajectory in trajectories:
            file.write(TrajectoryLine.of_chain(trajectory).to_json() + "\n")
    kept = ImageStore(out / "images")
    for trajectory in trajectories[: plan.kept_per_family * len(plan.families)]:
        for handle in {*trajectory.images, *filter(None, [trajectory.final_image])}:
            kept.put(store.get(handle))


def read_evaluation(path: Path) -> Evaluation:
    """A pass that `evaluate_policy` wrote."""
    trajectories = tuple(line.trajectory for _, line in read_trajectories(path))
    return Evaluation(trajectories, tuple(str(t.metadata["task_type"]) for t in trajectories))
