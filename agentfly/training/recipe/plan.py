"""The plan of a run: its policy, the work of a step, and an estimate of its memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentfly.training.recipe.checks import rollout_accelerators
from agentfly.training.recipe.memory import Memory, estimate_memory
from agentfly.training.recipe.policy_sizes import PolicySizes, sizes_of
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.step_parts import StepParts, parts_of
from agentfly.training.recipe.verl_config import VerlConfig


@dataclass(frozen=True)
class Plan:
    """The work that a run would do.

    Attributes:
        policy: family and sizes.
        tasks, out: the source of the tasks, and the folder of the run.
        algorithm: advantage estimator.
        steps: training steps.
        step: the work of each.
        sampling: choice of tasks and groups, where they are not simply taken in turn.
        accelerators: number and kind.
        memory: see `Memory`; None where the size of the policy is not known.
    """

    policy: PolicySizes
    tasks: str
    out: Path
    algorithm: str
    steps: int
    step: StepParts
    sampling: str | None
    accelerators: str
    memory: Memory | None

    def lines(self) -> Iterator[str]:
        """Yield the lines for a console."""
        policy = self.policy
        yield f"model       {policy.model}" + (
            f", {policy.parameters / 1e6:,.1f} M parameters" if policy.parameters else ""
        )
        yield f"family      {policy.family_in_words()}"
        yield f"tasks       {self.tasks}"
        yield f"algorithm   {self.algorithm}, {self.steps} steps"
        size, parts = self.step.in_words()
        yield f"a step      {size}"
        yield f"parts       {parts}"
        if self.sampling:
            yield f"sampling    {self.sampling}"
        yield f"runs on     {self.accelerators}"
        if self.memory is None:
            yield f"memory      unknown: {policy.why_unknown('*.safetensors')}"
        else:
            update, rollout = self.memory.in_words()
            yield f"memory      {update}"
            yield f"            {rollout}"
        yield f"writes to   {self.out}"


def plan_of(config: VerlConfig, settings: TrainSettings) -> Plan:
    """Return the plan of a run.

    Args:
        config: complete.
        settings: its section `agentfly`.
    """
    trainer, policy = config.trainer, sizes_of(settings.model)
    validation = settings.data.validation or "the first of them"
    beside = f" and {own} of the rollout alone" if (own := rollout_accelerators(config)) else ""
    accelerators = f"{trainer.n_gpus_per_node * trainer.nnodes} x {settings.device}{beside}"
    return Plan(
        policy=policy,
        tasks=f"{settings.data.train} (validation: {validation})",
        out=settings.out,
        algorithm=config.algorithm.adv_estimator,
        steps=int(trainer.total_training_steps),
        step=parts_of(config, settings),
        sampling=_sampling(config, settings),
        accelerators=f"{accelerators}, {trainer.v1.trainer_mode} trainer",
        memory=estimate_memory(config, policy, cpu=settings.device == "cpu"),
    )


def _sampling(config: VerlConfig, settings: TrainSettings) -> str | None:
    words = []
    if (refill := settings.refill) is not None:
        most = math.ceil(refill.most * config.data.train_batch_size)
        words.append(f"groups of equal rewards are replaced, up to {most} a step")
    if (curriculum := settings.curriculum) is not None:
        words.append(f"the most instructive of {curriculum.candidates} tasks is drawn")
    return "; ".join(words) or None
