"""The request of a trial, and its findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentfly.datasets import EditTask
from agentfly.errors import ConfigError
from agentfly.training.metrics.reward_groups import GroupStatistics
from agentfly.training.verl.messages import ChainReport, FinishedChain, LostChain


@dataclass(frozen=True)
class TrialRequest:
    """A trial of a recipe.

    Attributes:
        recipe: YAML file.
        overrides: in Hydra's grammar.
        tasks: first tasks of the training data.
        samples: chains of each task.
        model: policy folder or hub name in place of the recipe's; with `base_url` the model's name there.
        base_url: OpenAI-compatible endpoint of the policy.
        api_key_env: environment variable with its key.
        scripted: file of turns in place of a policy.
        save: folder of the chains; an earlier trial there is replaced.
    """

    recipe: Path
    overrides: Sequence[str] = ()
    tasks: int = 4
    samples: int = 1
    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    scripted: Path | None = None
    save: Path | None = None

    def __post_init__(self) -> None:
        if self.scripted is not None and (self.model is not None or self.base_url is not None):
            raise ConfigError("--scripted plays turns in place of a policy: leave --model and --base-url out")
        if self.api_key_env is not None and self.base_url is None:
            raise ConfigError("--api-key-env has the key of the endpoint of --base-url: name it too")


@dataclass(frozen=True)
class TriedChain:
    """One chain of a trial.

    Attributes:
        number: of the task, from 0.
        sample: of the chain among those of its task, from 0.
        task: what was asked.
        chain: what was done; None where the chain could not begin.
        report: for the metrics of the step; None for a chain that training would lose.
        lost: the reason for that.
        scoring_seconds: wall-clock time of reward and audit.
    """

    number: int
    sample: int
    task: EditTask
    chain: FinishedChain | None
    report: ChainReport | None = None
    lost: LostChain | None = None
    scoring_seconds: float = 0.0


@dataclass(frozen=True)
class Breach:
    """A limit of the health monitor that the trial breaks.

    Attributes:
        metric: without "health/".
        words: side on which it lies outside, such as "above 0.5".
        action: "warn" or "stop".
        patience: steps in a row after which training acts.
    """

    metric: str
    words: str
    action: str
    patience: int


@dataclass(frozen=True)
class TrialResult:
    """The outcome of a trial.

    Attributes:
        chains: in the order of the tasks.
        metrics: that training would log for a step of these chains.
        breaches: limits of the health monitor that they break.
        groups: rewards by task.
        unfit: reason why training would not learn from such a step; None if it would.
        seconds: from the first chain to the last score.
    """

    chains: Sequence[TriedChain]
    metrics: Mapping[str, float] = field(default_factory=dict)
    breaches: Sequence[Breach] = ()
    groups: Sequence[GroupStatistics] = ()
    unfit: str | None = None
    seconds: float = 0.0

    @property
    def lost(self) -> list[LostChain]:
        """The chains that would not reach the trainer."""
        return [chain.lost for chain in self.chains if chain.lost is not None]
