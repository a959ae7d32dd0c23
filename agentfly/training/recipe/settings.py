"""The section `agentfly:` of a run's configuration: everything that verl has no setting for.

These are the agent, its tools and engines, the evaluator, the conversion of scores to rewards, the metrics to watch,
and the folder of the run. All other settings are verl's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agentfly.agents import RolloutLimits
from agentfly.agents.policy_config import AgentCard
from agentfly.evaluators import RewardConfig
from agentfly.evaluators.guarded import GuardSettings
from agentfly.settings import Settings
from agentfly.training.metrics.judge_audit import AuditSettings
from agentfly.training.metrics.turn_credit import Placement
from agentfly.vision.remote.settings import NodeConfig, NodeSettings, read_nodes

TEMPLATE = "chat_template.jinja"  # in the run's folder: the text of the template that it trains with


class DataSettings(Settings):
    """Where tasks come from; see `agentfly.datasets.load_tasks`.

    Attributes:
        train: a data set by name, a file or folder of one's own, or a file that `agentfly data convert` wrote.
        validation: the same, for tasks that are not trained on; the first few training tasks when None.
        split, validation_split: of data sets that have several.
        limit, validation_limit: tasks at most; None for all.
        options, validation_options: of the source, such as `{columns: {instruction: prompt}}`.
    """

    train: str
    validation: str | None = None
    split: str | None = None
    validation_split: str | None = None
    limit: int | None = Field(None, ge=1)
    validation_limit: int | None = Field(None, ge=1)
    options: Mapping[str, Any] = Field(default_factory=dict)
    validation_options: Mapping[str, Any] = Field(default_factory=dict)


class LimitSettings(Settings):
    """When a chain ends; what is None comes from the card of the policy (`agentfly.json`).

    Attributes:
        max_turns: generations.
        max_tokens_per_turn: of one generation.
        max_tool_calls: calls carried out.
        max_images: images in the conversation; also what the rollout engine is told.
        wall_clock: seconds of a chain.
        tool_timeout: seconds of one call.
    """

    max_turns: int | None = Field(None, ge=1)
    max_tokens_per_turn: int | None = Field(None, ge=1)
    max_tool_calls: int = Field(32, ge=1)
    max_images: int = Field(8, ge=1)
    wall_clock: float = Field(1800.0, gt=0)
    tool_timeout: float = Field(600.0, gt=0)


class AuditNode(Settings):
    """A second evaluator that nobody is rewarded by; see `agentfly.training.metrics.judge_audit`.

    Attributes:
        evaluator: see `agentfly.evaluators.make_evaluator`.
        settings: how much is audited, and what is alarming.
    """

    evaluator: str | dict[str, Any]
    settings: AuditSettings = AuditSettings()


class Patience(Settings):
    """How long each part of a run may make no progress before it counts as hung, in seconds.

    Progress is a new kind of line in the log during the start, a finished chain during the rollouts, and the next part
    of the step (log-probs, update, synchronisation, ...) afterwards. The length of a whole is not limited.

    Attributes:
        ray: until Ray has started, or is found.
        start: from then until the first step begins (workers, rollout engine, first weight synchronisation).
        rollout: the chains of a step, scoring included; None is a little more than the longest chain may take by
            `limits` and `guard`.
        update: the rest of a step: log-probs, updates, weight synchronisation, checkpoint, validation.
    """

    ray: float = Field(default=180.0, gt=0)
    start: float = Field(default=900.0, gt=0)
    rollout: float | None = Field(default=None, gt=0)
    update: float = Field(default=900.0, gt=0)


class LostChainLimits(Settings):
    """How many chains of a step may be lost to faults; see `agentfly.training.verl.chain_faults`.

    Attributes:
        share: of a step's chains, 0 to 1. A step that has lost more, or all answered chains of a prompt, is not trained
            on.
        attempts: how often a step is sampled before the run ends.
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
        seed: of data order, rollouts and initialisation.
        device: "cpu" is the platform for machines without GPU.
        threads: compute threads of a process on "cpu", where trainer and rollout engine take turns.
        data: the tasks.
        template: chat template by name or path; the checkpoint's own when None.
        system_prompt: first message of a chain, "" for none; that of the policy's card when None.
        tools: names of the tools the policy gets, `give_answer` always among them; all when None.
        engines: what works behind the tools; see `agentfly.vision.factory.make_engines`.
        client_nodes: image servers as "host:port", or as mappings of the fields of
            `agentfly.vision.remote.NodeConfig`; what they do not offer is done by `engines`.
        max_requests_per_minute: to the image servers together; None is no limit.
        limits: when a chain ends.
        evaluator: who scores; see `agentfly.evaluators.make_evaluator`.
        guard: bounds of scoring: how many at once, time-out, attempts.
        reward: how a score becomes a reward.
        credit: None puts the reward on a chain's last token; "end" and "even" put on each turn what its edit was worth.
        audit: a second evaluator on a sample of each step; None for none.
        lost_chains: how many chains of a step may be lost to faults.
        health: limits by metric that warn or stop; see `agentfly.training.metrics.health.health_settings`.
        seeded: whether each turn samples with a seed of its own, so that a run can be repeated.
        trajectories: whether every chain is written to `trajectories.jsonl`.
        images: whether its images are kept too, in `images/`, so that it can be scored again.
        patience: time-outs.
        environment: variables for every process of the run.
    """

    written_as: ClassVar[str] = "agentfly."
    renamed: ClassVar[Mapping[str, str]] = {"pictures": "images"}

    model: str
    out: Path
    data: DataSettings
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cuda"
    threads: int = Field(2, ge=1)
    template: str | None = None
    system_prompt: str | None = None
    tools: tuple[str, ...] | None = None
    engines: str | dict[str, Any] = "classical"
    client_nodes: NodeSettings = ()
    max_requests_per_minute: int | None = Field(None, ge=1)
    limits: LimitSettings = LimitSettings()
    evaluator: str | dict[str, Any] = "reference"
    guard: GuardSettings = GuardSettings()
    reward: RewardConfig = RewardConfig()
    credit: Placement | None = None
    audit: AuditNode | None = None
    lost_chains: LostChainLimits = LostChainLimits()
    health: Mapping[str, dict[str, Any] | None] = Field(default_factory=dict)
    seeded: bool = True
    trajectories: bool = True
    images: bool = False
    patience: Patience = Patience()
    environment: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _patience_is_long_enough(self) -> Self:
        rollout = self.patience.rollout
        if rollout is not None and rollout < self.longest_chain:
            raise ValueError(
                f"patience.rollout={rollout:g} would end a step whose chain takes the {self.longest_chain:g} s that "
                "limits.wall_clock and guard allow: raise it, or lower those"
            )
        return self

    def nodes(self) -> list[NodeConfig]:
        """Return the image servers.

        Raises:
            ConfigError: a server is of no known form, or the variable with its key is not set.
        """
        return read_nodes(self.client_nodes, "agentfly.client_nodes")

    @property
    def longest_chain(self) -> float:
        """Seconds that one chain and its scoring may take."""
        audits = 0.0 if self.audit is None else self.audit.settings.guard.longest
        return self.limits.wall_clock + self.scoring_seconds + audits

    @property
    def scoring_seconds(self) -> float:
        """Seconds that scoring one chain may take: its result, then its turns where they get credit."""
        return self.guard.longest * (1 if self.credit is None else 2)

    @property
    def rollout_patience(self) -> float:
        """Seconds after which the rollouts of a step count as hung; a step may have more chains than slots."""
        return self.patience.rollout or 2.0 * self.longest_chain + 60.0

    @property
    def checkpoint_dir(self) -> Path:
        """Where verl writes `global_step_<n>/`."""
        return self.out / "checkpoints"

    @property
    def image_dir(self) -> Path:
        """Store of the images of the chains."""
        return self.out / "images"

    @property
    def trajectory_log(self) -> Path:
        """JSONL with one line a finished chain."""
        return self.out / "trajectories.jsonl"

    @property
    def metrics_log(self) -> Path:
        """JSONL with one line a step, as verl writes them."""
        return self.out / "metrics.jsonl"

    def card(self) -> AgentCard:
        """How the policy is run as an agent: the card beside its weights, with what is set here."""
        card, limits = AgentCard.read(self.model), self.limits
        changes = {
            "system_prompt": card.system_prompt if self.system_prompt is None else (self.system_prompt or None),
            "max_turns": limits.max_turns or card.max_turns,
            "max_tokens_per_turn": limits.max_tokens_per_turn or card.max_tokens_per_turn,
        }
        return card.model_copy(update=changes)

    def rollout_limits(self, prompt_length: int, response_length: int) -> RolloutLimits:
        """Limits of a chain whose tokens fit in verl's lengths."""
        card, limits = self.card(), self.limits
        return RolloutLimits(
            max_turns=card.max_turns,
            max_tokens_per_turn=card.max_tokens_per_turn,
            max_response_tokens=response_length,
            max_context_tokens=prompt_length + response_length,
            max_tool_calls=limits.max_tool_calls,
            max_images=limits.max_images,
            wall_clock=limits.wall_clock,
            tool_timeout=limits.tool_timeout,
        )
