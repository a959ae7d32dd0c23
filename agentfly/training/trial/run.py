"""Run the chains of a trial: made, run, checked, scored and judged by the objects that training uses."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.agents import Rollout
from agentfly.agents.reward_function import import_reward
from agentfly.aio import gather_or_cancel
from agentfly.datasets import EditTask
from agentfly.errors import TrainingError
from agentfly.templates import ChatCodec
from agentfly.training.launch.prepare import count_rows, training_tasks
from agentfly.training.metrics.chain_report import turn_results
from agentfly.training.metrics.health import health_settings
from agentfly.training.metrics.reward_groups import group_statistics
from agentfly.training.recipe.compose import compose, settings_of, to_override
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_dataset import TaskRow, read_task, write_rows
from agentfly.training.trial.policy import Policy, make_policy
from agentfly.training.trial.request import Breach, TrialRequest, TrialResult, TriedChain
from agentfly.training.trial.save import TrialFolder
from agentfly.training.verl.chain_faults import (
    ChainFault,
    check_ended,
    check_trainable,
    loss_metrics,
    lost_chain,
    why_unfit,
)
from agentfly.training.verl.messages import ChainReport, ChainRequest, ChainToScore, FinishedChain, UnscoredChain
from agentfly.training.verl.parity import ImageInputs, check_images
from agentfly.training.verl.run_agent import RunContext, make_run_context, new_chain, run_limits
from agentfly.training.verl.scoring import ChainScorer, images_needed, score_chains
from agentfly.training.verl.scoring_group import Answer, ScoringGroup
from agentfly.training.verl.step_metrics import StepObserver, report_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Chains at once: those of a training step fill the engine, but here people wait for the first.
_AT_ONCE = 16
_STEP = 0

OnChain = Callable[[TriedChain], None]


class Trial:
    """A trial, ready to run.

    Args:
        request: recipe and policy.

    Attributes:
        context: agent, engines and limits of the run.
        policy: what generates the turns.
        prompt_length: tokens of a prompt at most.

    Raises:
        ConfigError: the recipe, a tool, the policy or the script is wrong.
    """

    def __init__(self, request: TrialRequest) -> None:
        overrides = [*request.overrides]
        if request.model is not None and request.base_url is None:
            overrides.append(to_override("agentfly.model", request.model))
        self.request = request
        self.config: DictConfig = compose(request.recipe, overrides, sizes=False)
        self.settings: TrainSettings = settings_of(self.config)
        for name, value in self.settings.environment.items():
            os.environ.setdefault(name, value)
        limits = run_limits(self.config, self.settings)
        # The codec comes with the policy; making the agent needs none.
        self.context: RunContext = make_run_context(self.settings, None, limits)
        self.policy: Policy = make_policy(request, self.config, self.settings, self.context.sampling)
        self.prompt_length = int(self.config.actor_rollout_ref.rollout.prompt_length)
        self._scorer = ChainScorer(self.settings)
        self._inputs = None if self.policy.codec is None else ImageInputs(self.policy.codec)

    async def run(
        self, on_start: Callable[[], None] = lambda: None, on_chain: OnChain = lambda chain: None
    ) -> TrialResult:
        """Run all chains, save them if that is asked for, and return them with the metrics of their step.

        Args:
            on_start: called when the tools are known, before an engine starts.
            on_chain: called with each chain, in the order of the tasks.

        Raises:
            ConfigError: the script has no turns for a task, the reward function asks for what the tasks lack, or the
                folder holds something else.
            DatasetError: the tasks cannot be read.
            ToolOutage: a server of the tools does not answer.
            BackendError: the engine does not start.
        """
        folder = None if self.request.save is None else TrialFolder(self.request.save, self)
        chains = list[TriedChain]()
        try:
            await self.context.agent.prepare()
            on_start()
            await self.policy.start()
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="agentfly-try-") as scratch:
                tasks = await asyncio.to_thread(self._tasks, Path(scratch))
                async for chain in self._chains(tasks, folder):
                    chains.append(chain)
                    on_chain(chain)
            result = replace(self._judge(chains), seconds=time.monotonic() - begun)
            if folder is not None:
                await asyncio.to_thread(folder.finish, result)
            return result
        finally:
            await gather_or_cancel([self.policy.close(), self.context.agent.close()])
            if folder is not None:
                folder.close()

    def _tasks(self, folder: Path) -> list[tuple[TaskRow, EditTask]]:
        """Write the tasks as training does, and return them as they come out of its files."""
        tasks = islice(training_tasks(self.settings), self.request.tasks)
        file = write_rows(tasks, folder, "try")
        task_file = str(folder.resolve() / "try.tasks.parquet")
        rows = [TaskRow(index=index, task_file=task_file) for index in range(count_rows(file))]
        found = [(row, read_task(row)) for row in rows]
        if self.settings.reward_function is not None:
            fields = {name for _, task in found for name in task.metadata}
            import_reward(self.settings.reward_function).check_fields(fields)
        return found

    async def _chains(
        self, tasks: Sequence[tuple[TaskRow, EditTask]], folder: TrialFolder | None
    ) -> AsyncIterator[TriedChain]:
        gate = asyncio.Semaphore(_AT_ONCE)
        together = self.settings.scores_groups and self.request.samples > 1

        async def one(row: TaskRow, task: EditTask, sample: int, group: ScoringGroup | None) -> TriedChain:
            tried = await self._chain(row, task, sample, gate, group)
            if folder is not None:
                # At once, so that a trial that is stopped leaves what is finished.
                await folder.append(tried)
            return tried

        work = []
        for row, task in tasks:
            limit = self.settings.longest_chain * (1 + self.request.samples / _AT_ONCE)
            group = ScoringGroup(self.request.samples, self._ask_for_scores, limit) if together else None
            work += [asyncio.create_task(one(row, task, number, group)) for number in range(self.request.samples)]
        try:
            for chain in work:
                yield await chain
        finally:
            for chain in work:
                chain.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*work, return_exceptions=True)

    async def _chain(
        self, row: TaskRow, task: EditTask, sample: int, gate: asyncio.Semaphore, scored_with: ScoringGroup | None
    ) -> TriedChain:
        """Run one chain as an agent-loop worker does."""
        number, group = row["index"], f"step-{_STEP}-row-{row['index']}"
        backend = self.policy.backend(number, task.id)
        finished: FinishedChain | None = None
        report, seconds = None, 0.0
        try:
            # A chain that waits for others to be scored with must not keep them from running.
            async with gate:
                await self.context.agent.prepare()
                chain = new_chain(self.context, task, group, sample)
                trajectory = await Rollout(backend, self.context.limits, self.policy.sampling).run(chain)
                asked = ChainRequest(row, group, sample, _STEP)
                finished = FinishedChain(trajectory, chain.view.store, task, asked, self.settings)
                self._check(finished)
            begun = time.monotonic()
            report = await self._score(finished, scored_with)
            seconds = time.monotonic() - begun
        except Exception as fault:  # as in training: whatever happens to a chain does not end the others
            return TriedChain(number, sample, task, finished, lost=lost_chain(fault, group, validate=False))
        finally:
            if scored_with is not None:
                scored_with.leave(sample)
        return TriedChain(number, sample, task, finished, report, scoring_seconds=seconds)

    def _check(self, chain: FinishedChain) -> None:
        """Make the checks between rollout and trainer.

        Raises:
            ChainFault: the chain must not be trained on.
            AgentFlyError: its tokens or images are not those of its conversation.
        """
        codec = self.policy.codec
        if codec is None or self._inputs is None:
            check_ended(chain)
            if not chain.trajectory.turns:
                raise ChainFault("no_room", f"chain {chain.trajectory.id} sampled nothing", chain)
            return
        check_trainable(chain, self.context.limits.max_response_tokens)
        chain.trajectory.check(codec, chain.store.get)
        check_trainer_inputs(chain, codec, self._inputs)

    async def _ask_for_scores(self, chains: Sequence[FinishedChain]) -> Sequence[Answer]:
        """Score chains of one task as the reward loop does, by what it is sent of them."""
        messages = [
            ChainToScore.of(chain, turn_results(chain.trajectory), images_needed(chain.trajectory, self.settings))
            for chain in chains
        ]
        return await score_chains(self._scorer, messages)

    async def _score(self, chain: FinishedChain, group: ScoringGroup | None) -> ChainReport:
        """Score a chain, with the others of its task where they are compared.

        Raises:
            ChainFault: it cannot be scored.
        """
        trajectory = chain.trajectory
        if group is None:
            [answer] = await self._ask_for_scores([chain])
        else:
            answer = await group.score(chain.request.session, chain)
        if isinstance(answer, UnscoredChain):
            trajectory.reward_error = answer.reason
            raise ChainFault("not_scored", f"chain {trajectory.id} is not scored: {answer.reason}", chain)
        answer.write_on(trajectory)
        return report_of(chain, answer, self.context.engines)

    def _judge(self, chains: Sequence[TriedChain]) -> TrialResult:
        """Return the chains with what the trainer would log and decide about their step."""
        reports = [chain.report for chain in chains if chain.report is not None]
        lost = [chain.lost for chain in chains if chain.lost is not None]
        kept: dict[str, list[bool]] = defaultdict(list)
        for report in reports:
            kept[report.group].append(report.facts.answered)
        unfit = why_unfit(kept, lost, self.settings.lost_chains.share)
        metrics = loss_metrics(lost, len(reports))
        if reports:
            try:
                metrics |= StepObserver(self.settings).observe(reports, _STEP)
            except TrainingError as fault:
                unfit = unfit or str(fault)
                # The limit that stops the run is shown with its metric.
                metrics |= StepObserver(without_health_stops(self.settings)).observe(reports, _STEP)
        groups = group_statistics([report.reward for report in reports], [report.group for report in reports])
        return TrialResult(chains, metrics, self._breaches(metrics), groups, unfit)

    def _breaches(self, metrics: dict[str, float]) -> list[Breach]:
        limits = health_settings(self.settings.health).limits
        found = {
            name: limit.breach(metrics[f"health/{name}"])
            for name, limit in limits.items()
            if f"health/{name}" in metrics
        }
        return [
            Breach(name, words, limits[name].action, limits[name].patience) for name, words in found.items() if words
        ]


def without_health_stops(settings: TrainSettings) -> TrainSettings:
    """Return the settings with limits of the health monitor that warn and do not stop."""
    health = {name: None if limit is None else {**limit, "action": "warn"} for name, limit in settings.health.items()}
    return settings.model_copy(update={"health": health})


def check_trainer_inputs(chain: FinishedChain, codec: ChatCodec, inputs: ImageInputs) -> None:
    """Check that the trainer's inputs of a chain's images fit its ids, as an agent-loop worker does.

    Raises:
        TrainingError: they do not.
    """
    import torch

    trajectory = chain.trajectory
    assert trajectory.tokens is not None
    ids = trajectory.tokens.ids
    images = [chain.store.get(handle) for handle in trajectory.images]
    made = inputs.of(trajectory.images, images, torch.tensor(ids))
    check_images(trajectory, ids, made.get("image_grid_thw"), codec)
