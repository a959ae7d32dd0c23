"""Training runs as verl leaves them: `trajectories.jsonl`, `images/`, `metrics.jsonl`, `config.yaml` and a log."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from agentfly.agents import Trajectory
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, TrajectoryLine, append_line
from agentfly.datasets import FAMILIES
from agentfly.evaluators.reward import Reward
from agentfly.files import append_shared
from agentfly.images import ImageStore
from agentfly.training.metrics.chain_report import facts_of, intervals_of
from agentfly.training.metrics.health import HealthMonitor
from agentfly.training.metrics.judge_audit import JudgeAudit
from agentfly.training.metrics.reward_groups import reward_metrics
from agentfly.training.metrics.tool_stalls import wait_metrics
from agentfly.training.quickstart.run import QUICKSTART
from agentfly.training.quickstart.warm_start import SHIPPED
from agentfly.training.recipe.settings import AuditNode, DataSettings, TrainSettings
from tests.viewer_runs.chains import Policy, play, tasks_of

VALIDATED = 4  # steps from one validation to the next


@dataclass(frozen=True)
class TrainingPlan:
    """The size of a run.

    Attributes:
        steps: of training.
        groups: prompts of a step.
        chains: of a prompt.
        tasks: training tasks, which come again; so the same task is met at several steps.
        held_out: tasks of each validation.
        families: their types.
        seed: of the run.
        learns: the script plays better from step to step; False leaves it as bad as it begins.
        composed: `config.yaml` is the whole configuration, which takes seconds to compose.
        side: width and height of the images in pixels.
    """

    steps: int = 8
    groups: int = 4
    chains: int = 4
    tasks: int = 8
    held_out: int = 10
    families: tuple[str, ...] = FAMILIES
    seed: int = 0
    learns: bool = True
    composed: bool = False
    side: int = 168


USUAL = TrainingPlan()


class TrainingRun:
    """A training run that is written step by step.

    Args:
        folder: of the run; made.
        plan: its size.
    """

    def __init__(self, folder: Path, plan: TrainingPlan = USUAL) -> None:
        self.folder, self.plan, self.step = folder, plan, 0
        self._store = ImageStore(folder / IMAGES)
        self._rng = random.Random(plan.seed)
        self._health, self._audit = HealthMonitor(), JudgeAudit()
        self._tasks = tasks_of(plan.tasks, plan.families, side=plan.side)
        self._held_out = tasks_of(plan.held_out, plan.families, split="heldout", side=plan.side)
        (folder / "logs").mkdir(parents=True)
        _write_config(folder, plan)
        self._log(f"model: {SHIPPED}", f"{plan.steps} steps of {plan.groups} x {plan.chains} chains")
        if plan.held_out:
            self._validate()

    def add_step(self) -> int:
        """Sample, score and log the next step, and return its number."""
        self.step += 1
        plan, step = self.plan, self.step
        rows = [(self.step * plan.groups + place) % plan.tasks for place in range(plan.groups)]
        found = play(
            [self._tasks[row] for row in rows],
            [f"step-{step}-row-{row}" + f"-again-{i}" * (row in rows[:i]) for i, row in enumerate(rows)],
            plan.chains,
            self._store,
            self._policy(step),
        )
        chains = [chain for group in found for chain in group]
        self._append(chains, validate=False)
        self._add_metrics(chains)
        if plan.held_out and step % VALIDATED == 0:
            self._validate()
        return step

    def _policy(self, number: int) -> Policy:
        skill = number / max(1, self.plan.steps) if self.plan.learns else 0.0
        return Policy(0.9 * skill, 0.3 * (1 - 0.7 * skill), seed=1000 * self.plan.seed + number)

    def _append(self, chains: Sequence[Trajectory], *, validate: bool) -> None:
        self._store.sync()
        for chain in chains:
            line = TrajectoryLine.of_chain(chain, step=self.step, validate=validate)
            append_line(self.folder / FILE_NAME, line)

    def _validate(self) -> None:
        groups = [f"validation-{self.step}-row-{row}" for row in range(len(self._held_out))]
        found = play(self._held_out, groups, 1, self._store, self._policy(self.step))
        chains = [chain for group in found for chain in group]
        self._append(chains, validate=True)
        by_family: dict[str, list[float]] = {}
        for task, chain in zip(self._held_out, chains, strict=True):
            by_family.setdefault(task.task_type, []).append(chain.reward or 0.0)
        data = {f"val-core/{name}/reward/mean@1": sum(v) / len(v) for name, v in by_family.items()}
        self._metrics({**data, "timing_s/testing": 4.0 + self._rng.random()})

    def _add_metrics(self, chains: Sequence[Trajectory]) -> None:
        scored = [chain for chain in chains if chain.reward is not None]
        lost, rewards = len(chains) - len(scored), [chain.reward or 0.0 for chain in scored]
        stops = Counter(str(chain.stop_reason) for chain in scored)
        data = reward_metrics(
            [Reward(chain.reward or 0.0, chain.reward_parts) for chain in scored], [chain.group_id for chain in scored]
        )
        health = self._health.observe([facts_of(chain, self._store) for chain in scored], self.step)
        data |= health.metrics | {f"chains/stop/{name}": float(count) for name, count in stops.items()}
        data |= {"chains/lost": float(lost), "chains/lost_share": lost / max(1, len(chains))}
        audits = [
            (c.reward_parts["edit"], (c.score or 0.0) * 0.9 if i % 3 == 0 else None) for i, c in enumerate(scored)
        ]
        data |= self._audit.compare(audits, self.step).metrics
        data |= wait_metrics(interval for chain in scored for interval in intervals_of(chain))
        data |= _verls_own(self._rng, self.step, rewards, chains)
        self._metrics(data)
        self._log(f"step {self.step}: reward {data['reward/mean']:.2f}", *health.warnings)

    def _metrics(self, data: dict[str, float]) -> None:
        append_shared(self.folder / "metrics.jsonl", json.dumps({"step": self.step, "data": data}))

    def _log(self, *lines: str) -> None:
        with (self.folder / "logs" / "20260101-120000.log").open("a", encoding="utf-8") as log:
            log.writelines(f"{line}\n" for line in lines)


def training_run(folder: Path, plan: TrainingPlan = USUAL) -> Path:
    """Write a whole training run and return its folder."""
    run = TrainingRun(folder, plan)
    for _ in range(plan.steps):
        run.add_step()
    return folder


def _verls_own(
    rng: random.Random, step: int, rewards: Sequence[float], chains: Sequence[Trajectory]
) -> dict[str, float]:
    """Return scalars by the names that verl gives them."""
    lengths = [len(chain.tokens.response_ids) for chain in chains if chain.tokens is not None]
    prompts = [len(chain.tokens.prompt_ids) for chain in chains if chain.tokens is not None]
    generation, update = 5 + rng.random(), 8 + rng.random()
    return {
        "critic/rewards/mean": sum(rewards) / max(1, len(rewards)),
        "critic/advantages/mean": 0.0,
        "actor/entropy": 1.2 / step + 0.05 * rng.random(),
        "actor/pg_loss": 0.02 * rng.gauss(0, 1),
        "actor/grad_norm": 0.4 + 0.2 * rng.random(),
        "actor/lr": 7e-4 / step,
        "actor/kl_loss": 0.001 * step,
        "response_length/mean": sum(lengths) / max(1, len(lengths)),
        "prompt_length/mean": sum(prompts) / max(1, len(prompts)),
        "num_turns/mean": sum(len(chain.turns) for chain in chains) / max(1, len(chains)),
        "cache/hit_rate": min(0.9, 0.1 * step),
        "training/rollout_probs_diff_max": 1e-5 * rng.random(),
        "training/global_step": float(step),
        "perf/throughput": 900 + 100 * rng.random(),
        "timing_s/gen": generation,
        "timing_s/reward": 0.4,
        "timing_s/old_log_prob": 1.1,
        "timing_s/update_actor": update,
        "timing_s/update_weights": 0.6,
        "timing_s/step": generation + update + 2.1,
    }


def _write_config(folder: Path, plan: TrainingPlan) -> None:
    """Write `config.yaml`: all of it, or the settings that are ours with the few of verl's that people change."""
    data = {"train": "stickers", "validation": "stickers"}
    if plan.composed:
        from agentfly.training.recipe.compose import compose, to_override, write

        named = {"agentfly.model": SHIPPED, "agentfly.out": folder, "agentfly.seed": plan.seed, "agentfly.images": True}
        named |= {f"agentfly.data.{name}": value for name, value in data.items()}
        overrides = [to_override(name, value) for name, value in named.items()]
        write(compose(QUICKSTART, [*overrides, f"trainer.total_training_steps={plan.steps}"]), folder / "config.yaml")
        return
    settings = TrainSettings(
        model=str(SHIPPED),
        out=folder,
        data=DataSettings(**data),
        seed=plan.seed,
        device="cpu",
        images=True,
        audit=AuditNode(evaluator="structural"),
    )
    config = {
        "agentfly": settings.model_dump(mode="json"),
        "algorithm": {"adv_estimator": "grpo", "norm_adv_by_std_in_grpo": True},
        "actor_rollout_ref": {
            "actor": {"optim": {"lr": 7e-4}},
            "rollout": {"n": plan.chains, "temperature": 1.0},
        },
        "data": {"train_batch_size": plan.groups, "max_prompt_length": 64, "max_response_length": 192},
        "trainer": {"total_training_steps": plan.steps, "save_freq": plan.steps, "test_freq": VALIDATED},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
