"""Evaluate a policy on held-out sticker tasks by `agent.run()` with vLLM: greedy, sampled, and with blanked images.

One engine serves all passes. Every pass writes one JSONL file of trajectories. The images of the first tasks of each
family are kept for the report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from agentfly.agents import AgentSettings, EvaluationSetup, RolloutLimits, Trajectory
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import (
    AsyncVLLMBackend,
    AsyncVLLMConfig,
    Generation,
    GenerationRequest,
    LLMBackend,
    OnDelta,
    SamplingParams,
)
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.spec import AgentSpec
from agentfly.agents.trajectory_file import TrajectoryLine, read_trajectories
from agentfly.datasets import FAMILIES, EditTask, StickerWorld
from agentfly.evaluation.in_memory import Evaluation, evaluate_agent
from agentfly.evaluators import ReferenceEvaluator
from agentfly.files import write_text
from agentfly.images import ImageStore
from agentfly.settings import Settings
from agentfly.training.launch.subprocess_phase import OnProgress

GREY = (122, 117, 104)  # the mean colour that Qwen's image processor subtracts


class EvaluationPlan(Settings):
    """Tasks and passes of an evaluation.

    Attributes:
        tasks_per_family: held-out tasks of each family.
        families: task types that are evaluated.
        kept_per_family: tasks of each family whose images are kept.
        blanked: also run the look tasks with every image replaced by grey.
        seed: of the tasks and of the sampled pass.
    """

    tasks_per_family: int = 100
    families: tuple[str, ...] = tuple(FAMILIES)
    kept_per_family: int = 16
    blanked: bool = False
    seed: int = 0

    def tasks(self) -> list[EditTask]:
        """Return the held-out tasks, families in turn; they are the same for every policy."""
        world = StickerWorld()
        return [
            world.task(index, "heldout", family, seed=self.seed)
            for index in range(self.tasks_per_family)
            for family in self.families
        ]


class Blinded:
    """Backend whose model sees grey instead of every image; the tools still work on the real ones."""

    def __init__(self, backend: LLMBackend) -> None:
        self._backend = backend
        self.codec = backend.codec

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Generate one turn; see `LLMBackend.generate`."""
        load = request.load_image
        if load is not None:
            request = replace(request, load_image=lambda handle: Image.new("RGB", load(handle).size, GREY))
        return await self._backend.generate(request, on_delta)

    async def close(self) -> None:
        """Close the real backend."""
        await self._backend.close()


def evaluate_policy(policy: Path, out: Path, plan: EvaluationPlan, on_progress: OnProgress | None = None) -> None:
    """Run the plan and write `greedy.jsonl`, `sampled.jsonl` (and `blanked.jsonl`) with `images/`.

    Args:
        policy: Hugging Face folder with the policy's `agentfly.json`.
        out: folder that gets the files.
        plan: see `EvaluationPlan`.
        on_progress: called with "evaluation" and the number of tasks, done and in total.
    """
    asyncio.run(_run_passes(policy, out, plan, on_progress or (lambda phase, done, total: None)))


async def _run_passes(policy: Path, out: Path, plan: EvaluationPlan, report: OnProgress) -> None:
    out.mkdir(parents=True, exist_ok=True)
    card = PolicyConfig.read(str(policy))
    spec = AgentSpec().over(card.spec, str(policy))
    limits = RolloutLimits(max_turns=card.max_turns, max_tokens_per_turn=card.max_tokens_per_turn)
    tasks, backend = plan.tasks(), AsyncVLLMBackend(str(policy), AsyncVLLMConfig(max_model_len=1024, max_num_seqs=128))
    passes: list[tuple[str, LLMBackend, Sequence[EditTask], float]] = [
        ("greedy", backend, tasks, 0.0),
        ("sampled", backend, tasks, 1.0),
    ]
    if plan.blanked:
        looks = [task for task in tasks if task.task_type == "look"]
        passes.append(("blanked", Blinded(backend), looks, 0.0))
    total, done, kept = sum(len(chosen) for _, _, chosen, _ in passes), 0, ImageStore(out / "images")
    try:
        for name, model, chosen, temperature in passes:
            sampling = SamplingParams(temperature=temperature, max_tokens=card.max_tokens_per_turn, seed=plan.seed)
            settings = AgentSettings(
                system_prompt=card.system_prompt, limits=limits, sampling=sampling, max_concurrent_chains=128
            )
            agent = make_agent(spec, str(policy), backend=model, settings=settings)
            trajectories: list[Trajectory] = []
            for start in range(0, len(chosen), 100):
                batch = chosen[start : start + 100]
                evaluation = await evaluate_agent(agent, batch, EvaluationSetup(ReferenceEvaluator()))
                trajectories += evaluation.trajectories
                report("evaluation", done := done + len(batch), total)
            lines = "".join(TrajectoryLine.of_chain(trajectory).to_json() + "\n" for trajectory in trajectories)
            write_text(out / f"{name}.jsonl", lines)
            for trajectory in trajectories[: plan.kept_per_family * len(plan.families)]:
                for handle in {*trajectory.images, *filter(None, [trajectory.final_image])}:
                    kept.put(agent.store.get(handle))
    finally:
        await backend.close()


def read_evaluation(path: Path) -> Evaluation:
    """Read the file of a pass that `evaluate_policy` wrote."""
    trajectories = tuple(line.trajectory for _, line in read_trajectories(path))
    return Evaluation(trajectories, tuple(str(t.metadata["task_type"]) for t in trajectories))
