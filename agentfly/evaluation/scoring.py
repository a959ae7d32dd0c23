"""Score finished tasks with the evaluators of a run.

A spec of an evaluator is a value that `make_evaluator` takes, or one of these short forms for the command line:

    reference                                         a name
    judge:gpt-5                                       a name and its main setting (a judge's model, a server's address)
    judge:my-model,base_url=http://host:8000/v1,passes=2      and further settings
    judge.yaml                                        a YAML or JSON file with the mapping, or a list of them
    {"evaluator": "composite", "parts": {...}}        the mapping as JSON
    {"reward": "my_project.rewards:centred"}          a reward function, which sees the whole trajectory

`name` in a mapping is the label in tables; by default it is the evaluator's own name.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from agentfly.agents import edit_sample
from agentfly.agents.reward_function import Reward, import_reward
from agentfly.agents.tasks import TaskFacts, score_fields, score_of_reward
from agentfly.agents.trajectory import Trajectory
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError, EvaluatorError, ImageError
from agentfly.evaluators import (
    EditSample,
    Evaluator,
    GuardedEvaluator,
    GuardSettings,
    NotScored,
    Score,
    check_ready,
    check_sample,
    make_evaluator,
)
from agentfly.evaluators.base import objections
from agentfly.evaluators.judge.judge import JudgeEvaluator
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.files import parse_yaml, read_yaml
from agentfly.images import ImageStore

REWARD_SECONDS = 600.0  # for a reward function and one task
FIRST_TASKS = 16  # number of tasks that are checked before a run
# The setting that a word after the evaluator's name gives.
MAIN_SETTING: Mapping[str, str] = {
    **dict.fromkeys(("judge", "listwise", "questions", "similarity", "editscore", "editreward"), "model"),
    "http": "base_url",
    "detector": "detector",
}
_FILES = (".yaml", ".yml", ".json")
_ACCOUNT: ContextVar[JudgeUsage | None] = ContextVar("agentfly_judge_account", default=None)

Given = str | Mapping[str, object]
Spec = dict[str, object]


def read_specs(given: Iterable[Given]) -> dict[str, Spec]:
    """Return specs as mappings by label, in the order given; a second one of the same label gets ".2".

    Raises:
        ConfigError: none is given, or one cannot be read.
    """
    named: dict[str, Spec] = {}
    for spec in (found for one in given for found in _read(one)):
        label = str(spec.pop("name", None) or spec.get("evaluator") or spec.get("reward"))
        taken = sum(known == label or known.rpartition(".")[0] == label for known in named)
        named[label if not taken else f"{label}.{taken + 1}"] = spec
    if not named:
        raise ConfigError("no evaluator is named: give at least one, such as --evaluator reference")
    return named


def _read(given: Given) -> list[Spec]:
    if isinstance(given, Mapping):
        return [dict(given)]
    if given.lstrip().startswith("{"):
        where = "the evaluator given as JSON"
        return _mappings(parse_yaml(given, where), where)
    if given.endswith(_FILES):
        return _mappings(read_yaml(Path(given), "evaluator file"), given)
    name, colon, rest = given.partition(":")
    if not colon or name not in MAIN_SETTING:
        return [{"evaluator": given}]
    options: Spec = {"evaluator": name}
    for item in rest.split(","):
        key, equals, value = item.partition("=")
        options[key.strip() if equals else MAIN_SETTING[name]] = (
            parse_yaml(value, f"evaluator {given!r}") if equals else item.strip()
        )
    return [options]


def read_judge(given: Given) -> Spec:
    """Return settings of a judge: a mapping, a file with one, or MODEL[,KEY=VALUE…] as in `judge:MODEL,…`.

    Raises:
        ConfigError: it cannot be read.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if given.endswith(_FILES):
        found = read_yaml(Path(given), "file of --judge")
        if not isinstance(found, Mapping):
            raise ConfigError(f"{given} is no mapping of a judge's settings, such as model: gpt-4.1")
        return dict(found)
    [spec] = _read(f"judge:{given}")
    return {name: value for name, value in spec.items() if name != "evaluator"}


def _mappings(data: object, where: str) -> list[Spec]:
    entries = data if isinstance(data, list) else [data]
    found = [dict(entry) for entry in entries if isinstance(entry, Mapping) and {"evaluator", "reward"} & entry.keys()]
    if not found or len(found) < len(entries):
        raise ConfigError(f'{where} is a mapping with "evaluator" and its settings, or a list of such mappings')
    return found


async def count_scorable(evaluator: Evaluator, tasks: Sequence[EditTask]) -> int:
    """Count the tasks that have all that their score needs. Nothing that costs anything is asked.

    Args:
        evaluator: the one that would score.
        tasks: the first ones of a data set; an empty sequence raises nothing.

    Raises:
        ConfigError: no task can be scored; the message gives the reason of the first one.
    """
    faults: list[str] = []
    for task in tasks:
        try:
            await check_sample(evaluator, await asyncio.to_thread(edit_sample, task, None))
        except (EvaluatorError, ImageError) as fault:
            faults.append(str(fault))
    if faults and len(faults) == len(tasks):
        raise ConfigError(f"none of the first {len(tasks)} tasks can be scored: {faults[0]}")
    return len(tasks) - len(faults)


class MeteredJudge:
    """A judge that adds the usage of each sample, failures included, to the account of the task that asks."""

    def __init__(self, judge: JudgeEvaluator) -> None:
        self._judge = judge

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample; see `JudgeEvaluator.evaluate`."""
        # A copy with usage of its own: the connection, its slots and its limits stay shared.
        judge = copy.copy(self._judge)
        judge.usage = JudgeUsage()
        try:
            return await judge.evaluate(sample)
        finally:
            account = _ACCOUNT.get()
            if account is not None:
                account.add(judge.usage)

    async def check_ready(self) -> None:
        """Raise unless the judge can score; see `JudgeEvaluator.check_ready`."""
        await self._judge.check_ready()

    async def check_sample(self, sample: EditSample) -> None:
        """Raise unless the sample has what the judge needs; see `NeedsOfSamples.check_sample`."""
        await check_sample(self._judge, sample)

    async def close(self) -> None:
        """Close the judge's connections."""
        await self._judge.close()


class Scorer:
    """The evaluators of a run; the first is the headline.

    Args:
        specs: of `read_specs`.
        in_flight: samples that an evaluator without a `guard` in its spec scores at once.

    Attributes:
        labels: of the evaluators and reward functions, the headline first.

    Raises:
        ConfigError: an evaluator cannot be made.
    """

    def __init__(self, specs: Mapping[str, Mapping[str, object]], in_flight: int = 16) -> None:
        self.labels = tuple(specs)
        self._rewards: dict[str, Reward] = {}
        self._evaluators: dict[str, GuardedEvaluator] = {}
        for label, spec in specs.items():
            if "reward" in spec:
                self._rewards[label] = import_reward(str(spec["reward"]))
                continue
            made = metered(spec)
            if not isinstance(made, GuardedEvaluator):
                made = GuardedEvaluator(made, GuardSettings(in_flight=in_flight))
            self._evaluators[label] = made

    async def check_ready(self) -> None:
        """Check, without cost, that every evaluator could score now.

        Raises:
            ConfigError: some could not; the message names them all.
        """
        asked = self._evaluators.items()
        if faults := await objections({f"--evaluator {label}": check_ready(evaluator) for label, evaluator in asked}):
            raise ConfigError("; ".join(faults))

    async def check_tasks(self, tasks: Sequence[EditTask]) -> None:
        """Check, without cost, that the headline can score some of the first tasks.

        Raises:
            ConfigError: it can score none of them.
        """
        headline = self.labels[0]
        if headline in self._rewards:
            self._rewards[headline].check_fields({name for task in tasks for name in task.metadata})
            return
        try:
            await count_scorable(self._evaluators[headline], tasks)
        except ConfigError as fault:
            raise ConfigError(f"--evaluator {headline}: {fault}") from None

    async def score(
        self, task: TaskFacts, trajectory: Trajectory, store: ImageStore
    ) -> tuple[dict[str, Score | NotScored], dict[str, JudgeUsage]]:
        """Score a task, and write the headline's score on the trajectory.

        Args:
            task: with the images of the task.
            trajectory: the work of the agent.
            store: the images that both name.

        Returns:
            The scores, and the usage of the judges, both by label.

        Raises:
            ConfigError: an evaluator is set up wrongly and can score nothing.
        """
        judges: dict[str, JudgeUsage] = {}
        found: dict[str, Score | NotScored]
        if trajectory.failed:
            found = dict.fromkeys(self.labels, NotScored(f"the agent failed: {trajectory.error or 'no reason given'}"))
        else:
            found, judges = await self._evaluate(task, trajectory, store)
            measured = dict(found)  # a reward function may ask for the score of an evaluator, not of another function
            rewarded = {label: replace(trajectory, reward=None, reward_error=None) for label in self._rewards}
            for label, reward in self._rewards.items():
                found[label] = await _reward(reward, task, rewarded[label], store, measured)
            if (headline := rewarded.get(self.labels[0])) is not None:
                trajectory.reward, trajectory.reward_parts = headline.reward, headline.reward_parts
        scores = {label: found[label] for label in self.labels}
        first = scores[self.labels[0]]
        trajectory.score, trajectory.aspects = None, {}
        if isinstance(first, Score):
            trajectory.score, trajectory.aspects = first.value, dict(first.aspects)
        return scores, judges

    async def _evaluate(
        self, task: TaskFacts, trajectory: Trajectory, store: ImageStore
    ) -> tuple[dict[str, Score | NotScored], dict[str, JudgeUsage]]:
        """Ask the evaluators, all at once."""
        try:
            sample = await asyncio.to_thread(task.sample, store, trajectory.final_image)
        except ImageError as fault:
            return dict.fromkeys(self._evaluators, NotScored(str(fault))), {}
        tasks = [asyncio.ensure_future(score_with_usage(evaluator, sample)) for evaluator in self._evaluators.values()]
        try:
            outcomes = dict(zip(self._evaluators, await asyncio.gather(*tasks), strict=True))
        finally:
            for one in tasks:
                one.cancel()
        used = {label: usage for label, (_, usage) in outcomes.items() if usage.samples}
        return {label: score for label, (score, _) in outcomes.items()}, used

    async def close(self) -> None:
        """Close all evaluators."""
        for evaluator in self._evaluators.values():
            await evaluator.close()


async def _reward(
    reward: Reward,
    task: TaskFacts,
    trajectory: Trajectory,
    store: ImageStore,
    known: Mapping[str, Score | NotScored],
) -> Score | NotScored:
    """Ask a reward function, which may ask for the score of the first evaluator; write the reward on the trajectory."""
    fields = task.fields(store)
    if reward.asks_for("score", "aspects"):
        first = next(iter(known.values()), NotScored("there is no evaluator: name one with --evaluator"))
        if isinstance(first, NotScored):
            return first
        fields |= score_fields(first)
    await reward.score(trajectory, store, REWARD_SECONDS, fields)
    if trajectory.reward is None:
        return NotScored(f"no reward: {trajectory.reward_error}")
    parts = {"reward": trajectory.reward, **trajectory.reward_parts}
    return Score(score_of_reward(trajectory.reward, trajectory.reward_parts), aspects=parts)


def metered(spec: Given | Evaluator) -> Evaluator:
    """Return the evaluator of a spec, with every judge in it metered: `score_with_usage` then knows what it used.

    Raises:
        ConfigError: the evaluator cannot be made.
    """
    if not isinstance(spec, Mapping):
        return _metered_judge(make_evaluator(spec))
    options = dict(spec)
    guard = options.pop("guard", None)
    parts = options.get("parts")
    if options.get("evaluator") == "composite" and isinstance(parts, Mapping):
        options["parts"] = {name: metered(part) for name, part in parts.items()}
    made = _metered_judge(make_evaluator(options))
    if guard is None:
        return made
    if not isinstance(guard, Mapping):
        raise ConfigError('the guard of an evaluator is a mapping, such as {"in_flight": 4}')
    return GuardedEvaluator(made, GuardSettings(**guard))


def _metered_judge(made: Evaluator) -> Evaluator:
    return MeteredJudge(made) if isinstance(made, JudgeEvaluator) else made


async def score_with_usage(evaluator: GuardedEvaluator, sample: EditSample) -> tuple[Score | NotScored, JudgeUsage]:
    """Return the score of a sample and what the judges of a `metered` evaluator used for it.

    Run it as a task of its own, whose context keeps its account apart from those of other tasks.

    Args:
        evaluator: a guard around a `metered` evaluator.
        sample: to score.

    Raises:
        ConfigError: the evaluator is set up wrongly.
    """
    account = JudgeUsage()
    _ACCOUNT.set(account)
    [score] = await evaluator.evaluate_many([sample])
    return score, account
