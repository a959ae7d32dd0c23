"""The evaluators of a run by name, and their results for a sample: a score or the reason for none, and the cost.

A spec is what `make_evaluator` takes, or one of these short forms, which are for the command line:

    reference                                         a name
    judge:gpt-5                                       a name and its main setting (a judge's model, a server's address)
    judge:my-model,base_url=http://host:8000/v1,passes=2      and further settings
    judge.yaml                                        a YAML or JSON file with the mapping, or a list of them
    {"evaluator": "composite", "parts": {...}}        the mapping as JSON

`name` in a mapping is the label in tables; without it the evaluator's own name is used.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import Trajectory
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError, ImageError
from agentfly.evaluation.preflight import count_scorable
from agentfly.evaluators import (
    EditSample,
    Evaluator,
    GuardedEvaluator,
    GuardSettings,
    NotScored,
    Score,
    check_ready,
    make_evaluator,
)
from agentfly.evaluators.base import objections
from agentfly.evaluators.judge import VlmJudge
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.files import parse_yaml, read_yaml
from agentfly.images import ImageStore

# The setting that a word after the evaluator's name stands for.
MAIN_SETTING: Mapping[str, str] = {"judge": "model", "http": "base_url", "similarity": "model", "detector": "detector"}
_FILES = (".yaml", ".yml", ".json")
_ACCOUNT: ContextVar[JudgeUsage | None] = ContextVar("agentfly_judge_account", default=None)

Given = str | Mapping[str, Any]


def read_specs(given: Iterable[Given]) -> dict[str, dict[str, Any]]:
    """Specs as mappings, by label, in the order given; a second one of the same label gets ".2".

    Raises:
        ConfigError: none is given, or one cannot be read.
    """
    named: dict[str, dict[str, Any]] = {}
    for spec in (found for one in given for found in _read(one)):
        label = str(spec.pop("name", None) or spec.get("evaluator"))
        taken = sum(known == label or known.rpartition(".")[0] == label for known in named)
        named[label if not taken else f"{label}.{taken + 1}"] = spec
    if not named:
        raise ConfigError("no evaluator is named: give at least one, such as --evaluator reference")
    return named


def _read(given: Given) -> list[dict[str, Any]]:
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
    options: dict[str, Any] = {"evaluator": name}
    for item in rest.split(","):
        key, equals, value = item.partition("=")
        options[key.strip() if equals else MAIN_SETTING[name]] = (
            parse_yaml(value, f"evaluator {given!r}") if equals else item.strip()
        )
    return [options]


def _mappings(data: Any, where: str) -> list[dict[str, Any]]:
    entries = data if isinstance(data, list) else [data]
    if not entries or not all(isinstance(entry, Mapping) and "evaluator" in entry for entry in entries):
        raise ConfigError(f'{where} is a mapping with "evaluator" and its settings, or a list of such mappings')
    return [dict(entry) for entry in entries]


class MeteredJudge:
    """A judge that books what each sample takes, failures included, on the account of the task that asks."""

    def __init__(self, judge: VlmJudge) -> None:
        self._judge = judge

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample; see `VlmJudge.evaluate`."""
        # A view of the judge with books of its own: the connection, its slots and its limits stay shared.
        judge = copy.copy(self._judge)
        judge.usage = JudgeUsage()
        try:
            return await judge.evaluate(sample)
        finally:
            account = _ACCOUNT.get()
            if account is not None:
                account.add(judge.usage)

    async def check_ready(self) -> None:
        """Ask the judge; see `VlmJudge.check_ready`."""
        await self._judge.check_ready()

    async def close(self) -> None:
        """Close the judge's connections."""
        await self._judge.close()


class Scorer:
    """Scores finished tasks with every evaluator of a run; the first is the headline.

    Args:
        specs: of `read_specs`.
        in_flight: samples that each evaluator scores at once, where its spec has no `guard`.

    Raises:
        ConfigError: an evaluator cannot be made.
    """

    def __init__(self, specs: Mapping[str, Mapping[str, Any]], in_flight: int = 16) -> None:
        self._evaluators: dict[str, GuardedEvaluator] = {}
        for label, spec in specs.items():
            made = _metered(spec)
            if not isinstance(made, GuardedEvaluator):
                made = GuardedEvaluator(made, GuardSettings(in_flight=in_flight))
            self._evaluators[label] = made

    async def check_ready(self) -> None:
        """Find out, without cost, whether every evaluator could score now.

        Raises:
            ConfigError: with all that could not.
        """
        asked = zip(self.labels, self._evaluators.values(), strict=True)
        if faults := await objections({f"--evaluator {label}": check_ready(evaluator) for label, evaluator in asked}):
            raise ConfigError("; ".join(faults))

    async def check_tasks(self, tasks: Sequence[EditTask]) -> None:
        """Find out, without cost, whether the headline can score some of the first tasks.

        Raises:
            ConfigError: it can score none.
        """
        headline = self.labels[0]
        try:
            await count_scorable(self._evaluators[headline], tasks)
        except ConfigError as fault:
            raise ConfigError(f"--evaluator {headline}: {fault}") from None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the evaluators, the headline first."""
        return tuple(self._evaluators)

    async def score(
        self, task: TaskFacts, trajectory: Trajectory, store: ImageStore
    ) -> tuple[dict[str, Score | NotScored], dict[str, JudgeUsage]]:
        """Scores by evaluator, and what judging took; the headline's score is also written on the trajectory.

        Raises:
            ConfigError: an evaluator is set up wrongly, so that it can score nothing.
        """
        sample = await self._sample(task, trajectory, store)
        if isinstance(sample, NotScored):
            return self._noted(trajectory, dict.fromkeys(self.labels, sample)), {}
        tasks = [asyncio.ensure_future(_scored(evaluator, sample)) for evaluator in self._evaluators.values()]
        try:
            outcomes = dict(zip(self.labels, await asyncio.gather(*tasks), strict=True))
        finally:
            for one in tasks:
                one.cancel()
        scores = self._noted(trajectory, {label: score for label, (score, _) in outcomes.items()})
        return scores, {label: usage for label, (_, usage) in outcomes.items() if usage.samples}

    async def close(self) -> None:
        """Free what the evaluators hold."""
        for evaluator in self._evaluators.values():
            await evaluator.close()

    async def _sample(self, task: TaskFacts, trajectory: Trajectory, store: ImageStore) -> EditSample | NotScored:
        if trajectory.stop_reason is None or trajectory.stop_reason.failed:
            return NotScored(f"the agent failed: {trajectory.error or 'no reason given'}")
        try:
            return await asyncio.to_thread(task.sample, store, trajectory.final_image)
        except ImageError as fault:
            return NotScored(str(fault))

    def _noted(self, trajectory: Trajectory, scores: dict[str, Score | NotScored]) -> dict[str, Score | NotScored]:
        headline = scores[self.labels[0]]
        trajectory.score, trajectory.aspects = None, {}
        if isinstance(headline, Score):
            trajectory.score, trajectory.aspects = headline.value, dict(headline.aspects)
        return scores


def _metered(spec: Given | Evaluator) -> Evaluator:
    """The evaluator of a spec, with books for every judge in it."""
    if not isinstance(spec, Mapping):
        return _booked(make_evaluator(spec))
    options = dict(spec)
    guard = options.pop("guard", None)
    if options.get("evaluator") == "composite" and isinstance(options.get("parts"), Mapping):
        options["parts"] = {name: _metered(part) for name, part in options["parts"].items()}
    made = _booked(make_evaluator(options))
    return made if guard is None else GuardedEvaluator(made, _guard(guard))


def _booked(made: Evaluator) -> Evaluator:
    return MeteredJudge(made) if isinstance(made, VlmJudge) else made


def _guard(given: Any) -> GuardSettings:
    if not isinstance(given, Mapping):
        raise ConfigError('the guard of an evaluator is a mapping, such as {"in_flight": 4}')
    return GuardSettings(**given)


async def _scored(evaluator: GuardedEvaluator, sample: EditSample) -> tuple[Score | NotScored, JudgeUsage]:
    # This runs as a task of its own, which has a context of its own: accounts do not mix.
    account = JudgeUsage()
    _ACCOUNT.set(account)
    [score] = await evaluator.evaluate_many([sample])
    return score, account
