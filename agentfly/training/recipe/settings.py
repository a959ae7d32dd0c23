"""The section `agentfly` of a run's configuration: everything that verl has no setting for.

These are the agent, its tools and engines, the evaluator, the conversion of scores to rewards, the metrics to watch,
and the folder of the run. All other settings are verl's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from agentfly.agents import RolloutLimits
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.reward_function import import_reward
from agentfly.agents.spec import AgentSpec, Named
from agentfly.evaluators import RewardConfig
from agentfly.evaluators.factory import JUDGES, LEARNED, names_in, scores_groups, specs_in
from agentfly.evaluators.guarded import GuardSettings
from agentfly.settings import OutputPath, Settings
from agentfly.training.metrics.judge_audit import AuditSettings
from agentfly.training.metrics.turn_credit import Placement
from agentfly.training.recipe.record_settings import KeptImages, KeptImagesOrNot, ShownChains, ShownChainsOrNot
from agentfly.training.recipe.sampling_settings import CurriculumOrNot, RefillOrNot
from agentfly.vision.remote.settings import NodeConfig, NodeSettings, read_nodes

AUTO = "auto"  # the audit by what the tasks know
TEMPLATE = "chat_template.jinja"  # in the run's folder: the text of the template that it trains with


class DataSettings(Settings):
    """The source of the tasks; see `agentfly.datasets.load_tasks`.

    Attributes:
        train: a data set by name, a file or folder of your own, or a file that `agentfly data convert` wrote.
        validation: the same, for tasks that are not trained on; the first few training tasks when None.
        split, validation_split: name of a split, for data sets that have several.
        limit, validation_limit: number of tasks at most; None for all.
        options, validation_options: options of the source, such as `{columns: {instruction: prompt}}`.
    """

    train: str
    validation: str | None = None
    split: str | None = None
    validation_split: str | None = None
    limit: int | None = Field(None, ge=1)
    validation_limit: int | None = Field(None, ge=1)
    options: Mapping[str, object] = Field(default_factory=dict)
    validation_options: Mapping[str, object] = Field(default_factory=dict)


class LimitSettings(Settings):
    """The limits of a chain; those that are None come from the card of the policy (`agentfly.json`).

    Attributes:
        max_turns: generations.
        max_tokens_per_turn: sampled tokens of one generation.
        max_thought_tokens: tokens after which a thought is closed.
        max_tool_calls: calls that are carried out.
        max_images: images in the conversation; the rollout engine gets the same limit.
        wall_clock: seconds of a chain.
        tool_timeout: seconds of one call.
    """

    max_turns: int | None = Field(None, ge=1)
    max_tokens_per_turn: int | None = Field(None, ge=1)
    max_thought_tokens: int | None = Field(None, ge=1)
    max_tool_calls: int = Field(32, ge=1)
    max_images: int = Field(8, ge=1)
    wall_clock: float = Field(1800.0, gt=0)
    tool_timeout: float = Field(600.0, gt=0)


class AuditNode(Settings):
    """A second evaluator, whose scores are no part of the reward; see `agentfly.training.metrics.judge_audit`.

    Attributes:
        evaluator: see `agentfly.evaluators.make_evaluator`.
        settings: share of the chains that is audited, and conditions of the alarm.
    """

    evaluator: str | dict[str, object]
    settings: AuditSettings = AuditSettings()

    @classmethod
    def by_data(cls, evaluator: str | Mapping[str, object]) -> AuditNode | None:
        """Return the audit of a judge by what the tasks know: target and mask first, then the checks of a detector.

        Args:
            evaluator: that gives the reward. What it is made of is no second opinion on it.

        Returns:
            None where no judge gives the reward, or nothing is left.
        """
        names = set(names_in(evaluator))
        parts = {name: name for name in ("structural", "detector") if name not in names}
        if not names & JUDGES or not parts:
            return None
        return cls(evaluator={"evaluator": "composite", "how": "first", "parts": parts})


class Patience(Settings):
    """Seconds without progress after which a part of a run counts as hung.

    Progress is a new kind of line in the log during the start, a finished chain during the rollouts, and the next part
    of the step (log-probs, update, synchronisation, ...) afterwards. The whole length of a part is not limited.

    Attributes:
        ray: until Ray has started, or is found.
        start: from then until the first step begins (workers, rollout engine, first weight synchronisation).
        rollout: the chains of a step, scoring included; None is a little more than twice the time that `limits` and
            `guard` allow one chain.
        update: the rest of a step: log-probs, updates, weight synchronisation, checkpoint, validation.
    """

    ray: float = Field(default=180.0, gt=0)
    start: float = Field(default=900.0, gt=0)
    rollout: float | None = Field(default=None, gt=0)
    update: float = Field(default=900.0, gt=0)


class LostChainLimits(Settings):
    """The limit of chains that a step may lose to faults; see `agentfly.training.verl.chain_faults`.

    Attributes:
        share: part of a step's chains, 0 to 1. A step that has lost more, or all answered chains of a prompt, is not
            trained on.
        attempts: times that a step is sampled before the run ends.
        pause: seconds before it is sampled again.
    """

    share: float = Field(0.1, ge=0, le=1)
    attempts: int = Field(2, ge=1)
    pause: float = Field(30.0, ge=0)


class TrainSettings(Settings):
    """One training run.

    Attributes:
        model: Hugging Face folder or name of the policy (and of the critic's backbone).
        out: folder of the run: `config.yaml`, `data/`, `checkpoints/`, `logs/`, `metrics.jsonl`, `trajectories.jsonl`.
        seed: seed of data order, rollouts and initialisation.
        device: "cpu" is the platform for machines without GPU.
        threads: compute threads of a process on "cpu", where trainer and rollout engine take turns.
        data: the tasks.
        template: chat template by name or path; the checkpoint's own when None.
        system_prompt: first message of a chain, "" for none. When None, that of the policy's card, or that of the
            agent's class where the policy was not trained as this agent.
        agent: the agent that is trained, as "module:Class" for one of your own; see `agentfly.agents.spec`.
        tools: the tools of the policy; see `agentfly.agents.user_tools`. The agent's own when None.
        check_tools: True has the checks call each tool of your own once, on a sample image.
        engines: engines behind the tools; see `agentfly.vision.factory.make_engines`.
        client_nodes: image servers as "host:port", or as mappings of the fields of
            `agentfly.vision.remote.NodeConfig`; `engines` do the work that the servers do not offer.
        max_requests_per_minute: requests to all image servers together; None is no limit.
        limits: limits of a chain.
        evaluator: source of the scores; see `agentfly.evaluators.make_evaluator`.
        evaluator_sleep: True has the models of evaluator servers, that of the audit too, off their GPU except during
            rollouts; see `agentfly.training.launch.evaluator_sleep`.
        guard: bounds of scoring: concurrency, time-out, attempts.
        reward: conversion of a score to a reward. "module:function" with `@reward` in its place makes that the
            `reward_function`; a name or a mapping with `evaluator` is another way to write `evaluator`.
        reward_function: gives the reward instead of `reward`; see `agentfly.agents.reward_function`.
        credit: None puts the reward on a chain's last token; "end" and "even" give each turn the gain of its edit.
        audit: a second evaluator on a sample of each step; "auto" is one that knows the tasks' targets, masks and
            checks, where the reward is a judge's; None for none.
        calibration: folder of the records of `agentfly calibrate`; None for the default one.
        lost_chains: limit of the chains that a step may lose to faults.
        refill: replace groups of equal rewards; true, false or the settings.
        curriculum: draw tasks by what can be learned from them; true, false or the settings.
        health: limits by metric that warn or stop; see `agentfly.training.metrics.health.health_settings`.
        seeded: True gives each turn a seed of its own, so that a run can be repeated.
        trajectories: True writes every chain to `trajectories.jsonl`.
        images: the images of the chains, kept in `images/` up to a size; true, false or the settings.
        show_chains: the chains that W&B, Trackio and TensorBoard get as images, where `trainer.logger` names one of
            them; true, false or the settings.
        patience: time-outs.
        environment: variables for every process of the run.
    """

    written_as: ClassVar[str] = "agentfly."
    renamed: ClassVar[Mapping[str, str]] = {"pictures": "images"}

    model: str
    out: OutputPath
    data: DataSettings
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cuda"
    threads: int = Field(2, ge=1)
    template: str | None = None
    system_prompt: str | None = None
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    check_tools: bool = True
    engines: str | dict[str, object] = "classical"
    client_nodes: NodeSettings = ()
    max_requests_per_minute: int | None = Field(None, ge=1)
    limits: LimitSettings = LimitSettings()
    evaluator: str | dict[str, object] = "reference"
    evaluator_sleep: bool = False
    guard: GuardSettings = GuardSettings()
    reward: RewardConfig = RewardConfig()
    reward_function: str | None = None
    credit: Placement | None = None
    audit: AuditNode | None = None
    calibration: Path | None = None
    lost_chains: LostChainLimits = LostChainLimits()
    refill: RefillOrNot = None
    curriculum: CurriculumOrNot = None
    health: Mapping[str, dict[str, object] | None] = Field(default_factory=dict)
    seeded: bool = True
    trajectories: bool = True
    images: KeptImagesOrNot = KeptImages()
    show_chains: ShownChainsOrNot = ShownChains()
    patience: Patience = Patience()
    environment: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_reward(cls, given: dict[str, object]) -> dict[str, object]:
        reward = given.get("reward")
        if isinstance(reward, str) and ":" in reward:
            given = {**given, "reward": {}, "reward_function": reward}
        elif isinstance(reward, str) or (isinstance(reward, Mapping) and "evaluator" in reward):
            given = {**given, "reward": {}, "evaluator": reward}
        evaluator = given.get("evaluator", "reference")
        if given.get("audit") == AUTO and isinstance(evaluator, str | Mapping):
            given = {**given, "audit": AuditNode.by_data(evaluator)}
        return given

    @model_validator(mode="after")
    def _credit_needs_an_evaluator(self) -> Self:
        if self.credit is not None and self.reward_function is not None:
            raise ValueError(
                "credit scores the image of each turn, which a reward function of whole chains cannot: leave credit "
                "out, or give an evaluator in place of the function"
            )
        return self

    @model_validator(mode="after")
    def _credit_needs_scores_of_single_images(self) -> Self:
        if self.credit is not None and "listwise" in names_in(self.evaluator):
            raise ValueError(
                "credit scores the image of each turn alone, and the listwise judge compares the results of a prompt: "
                "leave credit out, or give another evaluator"
            )
        return self

    @model_validator(mode="after")
    def _only_servers_sleep(self) -> Self:
        if not self.evaluator_sleep:
            return self
        names = {name for spec in self._evaluators for name in names_in(spec)}
        how = "serve it with agentfly serve-evaluator, and give {evaluator: http, base_url: http://HOST:8100} instead"
        if here := ", ".join(sorted(names & LEARNED)):
            raise ValueError(
                f"evaluator_sleep does not reach {here}, which each process that scores would load for itself: {how}"
            )
        if "http" not in names:
            known = ", ".join(sorted(names)) or "no evaluator"
            raise ValueError(
                f"evaluator_sleep is for a learned reward on a server, and {known} gives the scores: leave it out; or "
                f"{how}"
            )
        return self

    @model_validator(mode="after")
    def _patience_is_long_enough(self) -> Self:
        rollout = self.patience.rollout
        if rollout is not None and rollout < self.longest_chain:
            raise ValueError(
                f"patience.rollout={rollout:g} would end a step whose chain takes the {self.longest_chain:g} s that "
                "limits.wall_clock and guard allow: raise it, or lower those"
            )
        return self

    @property
    def scores_groups(self) -> bool:
        """True if the chains of a prompt are scored together; see `agentfly.evaluators.base.GroupEvaluator`."""
        return scores_groups(self.evaluator) and self.asks_evaluator

    @property
    def asks_evaluator(self) -> bool:
        """True if `evaluator` scores the chains: no reward function does without it."""
        function = self.reward_function
        return function is None or import_reward(function).asks_for("score", "aspects")

    @property
    def sleeping_evaluators(self) -> list[Mapping[str, object]]:
        """The specs of the evaluators on servers that sleep except during rollouts; none without `evaluator_sleep`."""
        if not self.evaluator_sleep:
            return []
        specs = [part for spec in self._evaluators for part in specs_in(spec)]
        return [spec for spec in specs if isinstance(spec, Mapping) and spec.get("evaluator") == "http"]

    @property
    def _evaluators(self) -> list[str | dict[str, object]]:
        """The specs of the evaluator and of the audit's, those that are asked."""
        asked = [self.evaluator] if self.asks_evaluator else []
        return asked + ([] if self.audit is None else [self.audit.evaluator])

    def nodes(self) -> list[NodeConfig]:
        """Return the image servers.

        Raises:
            ConfigError: a server is given in no known form, or the variable with its key is not set.
        """
        return read_nodes(self.client_nodes, "agentfly.client_nodes")

    @property
    def longest_chain(self) -> float:
        """Seconds that one chain and its scoring may take."""
        audits = 0.0 if self.audit is None else self.audit.settings.guard.longest
        return self.limits.wall_clock + self.scoring_seconds + audits

    @property
    def scoring_seconds(self) -> float:
        """Seconds that scoring one chain may take: first its result, then its turns where they get credit."""
        return self.guard.longest * (1 if self.credit is None else 2)

    @property
    def rollout_patience(self) -> float:
        """Seconds after which the rollouts of a step count as hung; a step may have more chains than slots."""
        return self.patience.rollout or 2.0 * self.longest_chain + 60.0

    @property
    def checkpoint_dir(self) -> Path:
        """Folder in which verl writes `global_step_<n>/`."""
        return self.out / "checkpoints"

    @property
    def image_dir(self) -> Path:
        """Folder of the images of the chains; a run that version 0.1 began keeps its `pictures/`."""
        begun = self.out / "pictures"
        return begun if begun.is_dir() else self.out / "images"

    @property
    def trajectory_log(self) -> Path:
        """JSONL with one line for each finished chain."""
        return self.out / "trajectories.jsonl"

    @property
    def metrics_log(self) -> Path:
        """JSONL with one line for each step, as verl writes them."""
        return self.out / "metrics.jsonl"

    def spec(self) -> AgentSpec:
        """Return agent and tools, with those of the policy's card where these settings name none.

        Raises:
            ConfigError: the card names code of somebody's, and these settings do not ask for it.
        """
        given = AgentSpec(agent=self.agent, tools=self.tools)
        return given.over(PolicyConfig.read(self.model).spec, self.model)

    def card(self) -> PolicyConfig:
        """Return the card of the policy as an agent: the file beside its weights, changed by these settings."""
        policy, limits, spec = PolicyConfig.read(self.model), self.limits, self.spec()
        changes = {
            "agent": spec.agent,
            "tools": spec.tools,
            "reward": self.reward_function,
            "system_prompt": policy.system_prompt if self.system_prompt is None else (self.system_prompt or None),
            "max_turns": limits.max_turns or policy.max_turns,
            "max_tokens_per_turn": limits.max_tokens_per_turn or policy.max_tokens_per_turn,
        }
        return policy.model_copy(update=changes)

    def rollout_limits(self, prompt_length: int, response_length: int) -> RolloutLimits:
        """Return the limits of a chain whose tokens fit in verl's lengths.

        Args:
            prompt_length: tokens of the prompt at most.
            response_length: tokens after the prompt at most, observations included.
        """
        policy, limits = self.card(), self.limits
        return RolloutLimits(
            max_turns=policy.max_turns,
            max_tokens_per_turn=policy.max_tokens_per_turn,
            max_thought_tokens=limits.max_thought_tokens,
            max_response_tokens=response_length,
            max_context_tokens=prompt_length + response_length,
            max_tool_calls=limits.max_tool_calls,
            max_images=limits.max_images,
            wall_clock=limits.wall_clock,
            tool_timeout=limits.tool_timeout,
        )
