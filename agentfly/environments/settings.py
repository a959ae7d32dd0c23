"""The settings of an environment: its tasks, its agent with its limits, and its scores.

They have the names that they have in recipes and evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from agentfly.agents import AgentSettings, EvaluationSetup, RolloutLimits
from agentfly.agents.factory import make_agent, prompt_of
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.reward_function import import_reward
from agentfly.agents.spec import AgentSpec
from agentfly.datasets import task_rows
from agentfly.datasets.task import TaskRow
from agentfly.environments.editing import EditingEnvironment, TrajectoryLog
from agentfly.environments.policy import ExternalPolicy
from agentfly.errors import ConfigError
from agentfly.evaluators import GuardedEvaluator, GuardSettings, RewardConfig, make_evaluator
from agentfly.files import read_mapping
from agentfly.settings import OutputPath, Settings
from agentfly.vision.factory import read_engines
from agentfly.vision.remote.settings import NodeSettings, read_nodes


class EpisodeLimits(Settings):
    """The limits of an episode; `agentfly.agents.rollout` has the order in which they are checked.

    The trainer that samples the turns limits their tokens.

    Attributes:
        max_turns: turns of the policy.
        max_tool_calls: calls that are carried out.
        max_images: images in the conversation.
        wall_clock: seconds of an episode, the time in which its policy thinks included.
        tool_timeout: seconds of one call.
    """

    max_turns: int = Field(8, ge=1)
    max_tool_calls: int = Field(32, ge=1)
    max_images: int = Field(16, ge=1)
    wall_clock: float = Field(1800.0, gt=0)
    tool_timeout: float = Field(600.0, gt=0)


class TaskSettings(Settings):
    """The tasks; see `agentfly.datasets.load_tasks`.

    Attributes:
        data: name of a data set, or path.
        split, limit, seed, root: of the data set. Its rows are listed, so a large one needs a limit.
        data_options: further options of the source.
    """

    written_as: ClassVar[str] = "--"

    data: str = "stickers"
    split: str | None = None
    limit: int | None = Field(None, ge=1)
    seed: int = 0
    root: Path | None = None
    data_options: Mapping[str, Any] = Field(default_factory=dict)

    def rows(self) -> list[TaskRow]:
        """Return the rows of the data set; the tasks are made when they are asked for.

        Raises:
            ConfigError: there is no such data set, or it has no rows.
            DatasetError: the data cannot be read.
        """
        options = self.data_options
        rows = list(task_rows(self.data, split=self.split, limit=self.limit, seed=self.seed, root=self.root, **options))
        if not rows:
            raise ConfigError(f"the data set {self.data!r} has no tasks: choose another split or limit")
        return rows


class EpisodeSettings(AgentSpec):
    """The agent whose policy is elsewhere.

    Attributes:
        agent, tools: see `agentfly.agents.spec`.
        engine: engine behind the tools, by name or as a mapping; see `agentfly.vision.make_engines`.
        client_nodes: image servers as "host:port", or as mappings of the fields of `agentfly.vision.remote.NodeConfig`;
            `engine` does the operations that none of them offers.
        system_prompt: first message of an episode, "" for none; the agent's own by default.
        limits: of an episode.
        log_dir: folder that keeps the trajectories, for the viewer and for `agentfly replay`.
    """

    written_as: ClassVar[str] = "--"

    engine: str | Mapping[str, object] | None = None
    client_nodes: NodeSettings = ()
    system_prompt: str | None = None
    limits: EpisodeLimits = EpisodeLimits()
    log_dir: OutputPath | None = None

    def make(self, evaluation: EvaluationSetup | None = None, label: str = "score") -> EditingEnvironment:
        """Return the environment of this agent.

        Args:
            evaluation: scores the episodes; None leaves that to the caller.
            label: of the scores in the log.

        Raises:
            ConfigError: the agent, a tool or an engine is unknown or cannot be made.
        """
        spec = AgentSpec(agent=self.agent, tools=self.tools)
        prompt = prompt_of(spec, PolicyConfig()) if self.system_prompt is None else self.system_prompt or None
        settings = AgentSettings(system_prompt=prompt, limits=RolloutLimits(**self.limits.model_dump()))
        agent = make_agent(
            spec,
            "external",
            engines=self.engine,
            client_nodes=read_nodes(self.client_nodes, "client_nodes") or None,
            backend=ExternalPolicy(),
            settings=settings,
        )
        log = None if self.log_dir is None else TrajectoryLog(self.log_dir, label)
        return EditingEnvironment(agent, evaluation, log)


class ScoreSettings(Settings):
    """The source of scores and rewards.

    Attributes:
        evaluator: see `agentfly.evaluators.make_evaluator`.
        guard: limits of scoring.
        reward: weights of the parts of the reward; or "module:function" with `@agentfly.agents.reward`.
    """

    written_as: ClassVar[str] = "--"

    evaluator: str | Mapping[str, Any] = "reference"
    guard: GuardSettings = GuardSettings()
    reward: RewardConfig | str = RewardConfig()

    @property
    def source(self) -> str:
        """The name of evaluator or function, for logs."""
        if isinstance(self.reward, str):
            return self.reward
        return self.evaluator if isinstance(self.evaluator, str) else str(self.evaluator.get("evaluator"))

    def make_evaluation(self) -> EvaluationSetup:
        """Return the source of scores and rewards.

        Raises:
            ConfigError: the evaluator or a setting of it is unknown, or there is no such reward function.
        """
        evaluator = GuardedEvaluator(make_evaluator(self.evaluator), self.guard)
        if isinstance(self.reward, str):
            return EvaluationSetup(evaluator, function=import_reward(self.reward), timeout=self.guard.timeout)
        return EvaluationSetup(evaluator, self.reward)


class EnvironmentSettings(TaskSettings, EpisodeSettings, ScoreSettings):
    """All settings of an environment."""

    def make_environment(self) -> EditingEnvironment:
        """Return an environment that scores its episodes.

        Raises:
            ConfigError: a setting is wrong.
        """
        return self.make(self.make_evaluation(), self.source)


def read_settings(
    config: Path | None, given: Mapping[str, object], client_nodes: Sequence[object] = ()
) -> EnvironmentSettings:
    """Return the settings of a YAML file and of the command line, which goes first.

    Args:
        config: the file; None for none.
        given: options by name; None stands for an option that was not given.
        client_nodes: image servers of the command line.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or wrong.
    """
    values = {} if config is None else read_mapping(config, "file of --config", "data: stickers")
    values |= {name: value for name, value in given.items() if value is not None}
    if client_nodes:
        values["client_nodes"] = client_nodes
    if isinstance(values.get("engine"), str):
        values["engine"] = read_engines(values["engine"])
    return EnvironmentSettings(**values)
