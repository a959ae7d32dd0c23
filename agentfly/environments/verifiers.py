"""The editing environment as a task set of `verifiers` (its v1 API): `vf-eval agentfly-editing`.

A run of verifiers has three parts. The *task set* gives tasks, with their images as data URIs, and scores what became
of them. The *harness* plays a task: here it is an episode of ours in the process of verifiers, which asks verifiers'
own endpoint for each turn. So verifiers samples, records and trains, and tools, limits and observations are ours. The
*environment* puts the two together, without a sandbox, since the policy runs no code.

Verifiers finds these by the name of an installed module, which is `agentfly_editing`.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr

from agentfly.agents import Trajectory
from agentfly.agents.tasks import EvaluationSetup, task_conversation
from agentfly.datasets import EditTask, load_tasks
from agentfly.environments.editing import Episode
from agentfly.environments.settings import EpisodeLimits, EpisodeSettings, ScoreSettings
from agentfly.errors import ConfigError, MissingExtraError
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.images import ImageSource, data_uri, load_image, load_mask, without_transparency
from agentfly.openai_client import Endpoint, SdkClient, is_fault

try:
    import verifiers.v1 as vf
except ImportError as fault:
    raise MissingExtraError("the task set of verifiers", "verifiers") from fault

NAME = "agentfly-editing"


def _parsed(given: object) -> object:
    """Return a mapping that was written as JSON on a command line, and anything else as it is."""
    return json.loads(given) if isinstance(given, str) and given.lstrip().startswith("{") else given


# A name, or a mapping with a name and settings.
_Named = Annotated[str | dict[str, Any], BeforeValidator(_parsed)]

_NO_EPISODE = (
    "an editing task is played by its own harness, and this run was not: leave --env.agent.harness.id out. A saved "
    "trace cannot be scored again by verifiers; agentfly replay does that with the folder of log_dir"
)


class EditingTaskConfig(vf.TaskConfig):
    """The source of scores and rewards; see `agentfly.environments.settings.ScoreSettings`."""

    evaluator: _Named = "reference"
    """Evaluator by name, or a mapping with its settings."""
    guard: dict[str, Any] = Field(default_factory=dict)
    """Limits of scoring: in_flight, timeout, attempts."""
    reward: _Named = Field(default_factory=dict)
    """Weights of the parts of the reward, or module:function of a reward function."""


class EditingTasksetConfig(vf.TasksetConfig):
    """The tasks; see `agentfly.datasets.load_tasks`."""

    task: EditingTaskConfig = EditingTaskConfig()
    """The source of scores and rewards."""
    data: str = "stickers"
    """Name of a data set, or path."""
    split: str | None = None
    """In the words of the data set; its first one by default."""
    seed: int = 0
    """Seed of generated data."""
    data_options: dict[str, Any] = Field(default_factory=dict)
    """Further options of the data set."""


class EditingHarnessConfig(vf.HarnessConfig):
    """The agent whose place the policy takes; see `agentfly.environments.settings.EpisodeSettings`."""

    agent: _Named | None = None
    """"image-editing", or module:Class; the former by default."""
    tools: list[_Named] | None = None
    """Tools and groups by name; the agent's own by default."""
    engine: _Named | None = None
    """Engine behind the tools, by name or as a mapping; the embedded ones by default."""
    client_nodes: list[_Named] = Field(default_factory=list)
    """Image servers as host:port, or as mappings of their fields."""
    max_turns: int = 8
    """Turns of the policy in a rollout."""
    max_tool_calls: int = 32
    """Calls that are carried out in a rollout."""
    max_images: int = 16
    """Images in a conversation."""
    wall_clock: float = 1800.0
    """Seconds of a rollout, the time of the model included."""
    log_dir: str | None = None
    """Folder that keeps our own record of the rollouts, for the viewer and for agentfly replay."""


class EditingEnvConfig(vf.EnvConfig):
    """The environment: one policy, in the process of verifiers."""

    # Copied, since making one with a harness imports the module of that name, which imports this one.
    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig()).model_copy(
        update={"harness": EditingHarnessConfig(id=NAME)}
    )
    """The policy, and the harness that gives it our tools."""


class EditingData(vf.TaskData):
    """A task for the wire. Its source images are in the prompt; images are data URIs."""

    instruction: str
    target: str | None = None
    mask: str | None = None
    task_type: str = "edit"
    metadata: dict[str, Any] = Field(default_factory=dict)


class EditingState(vf.State):
    """The episode of a rollout, from its first turn until it is scored."""

    episode: Any = Field(None, exclude=True)


class EditingTask(vf.Task[EditingData, EditingState, EditingTaskConfig]):
    """An editing task. The reward is ours; score, aspects and the parts of the reward are metrics."""

    @property
    def key(self) -> str:
        """The id of the task in its data set."""
        return self.data.id or self.hash

    @vf.metric
    async def measured(self, trace: vf.Trace) -> dict[str, float]:
        """Return the metrics of a finished rollout, under the names that our own training logs.

        Args:
            trace: of the rollout.

        Raises:
            EvaluatorError: the rollout cannot be scored.
        """
        return metrics_of(await self._scored(trace))

    @vf.reward
    async def reward(self, trace: vf.Trace) -> float:
        """Return the reward of a finished rollout; see `agentfly.evaluators.compose_reward`.

        Args:
            trace: of the rollout.

        Raises:
            EvaluatorError: the rollout cannot be scored.
        """
        return (await self._scored(trace)).reward or 0.0

    async def _scored(self, trace: vf.Trace) -> Trajectory:
        """Return the trajectory of a rollout, scored. Metrics come first, so the reward finds it done."""
        episode: Episode | None = getattr(trace.state, "episode", None)
        if episode is None:
            raise ConfigError(_NO_EPISODE)
        if episode.trajectory.reward is None:
            await episode.score(_evaluation(self.config.model_dump_json(include={"evaluator", "guard", "reward"})))
        return episode.trajectory


class EditingTaskset(vf.Taskset[EditingTask, EditingTasksetConfig]):
    """The tasks of a data set."""

    def load(self) -> Iterator[EditingTask]:
        """Yield the tasks, each made when it is asked for.

        Raises:
            ConfigError: there is no such data set or split.
            DatasetError: the data cannot be read.
        """
        config = self.config
        for task in load_tasks(config.data, split=config.split, seed=config.seed, **config.data_options):
            yield EditingTask(_to_wire(task), config.task)


class EditingHarness(vf.Harness[EditingHarnessConfig]):
    """Plays a task as an episode of ours, whose turns come from the endpoint of verifiers."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    def __init__(self, config: EditingHarnessConfig) -> None:
        super().__init__(config)
        if config.disabled_tools is not None:
            raise ConfigError("disabled_tools is not known here: name those that the policy gets, with tools")
        limits = EpisodeLimits(
            max_turns=config.max_turns,
            max_tool_calls=config.max_tool_calls,
            max_images=config.max_images,
            wall_clock=config.wall_clock,
            tool_timeout=config.tool_timeout,
        )
        names = {"agent", "tools", "engine", "client_nodes", "log_dir"}
        self._environment = EpisodeSettings(**config.model_dump(include=names), limits=limits).make()

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: Mapping[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Play a task to its end.

        Args:
            ctx: the model's name.
            trace: gets the episode in its state.
            runtime: not used: nothing runs in a sandbox.
            endpoint, secret: address and key at which verifiers takes requests for turns.
            mcp_urls: none, as the task set has no tool servers.
            data: the task.

        Raises:
            ConfigError: the task is not of this task set.
        """
        if not isinstance(data, EditingData):
            raise ConfigError(f"this harness plays the tasks of {NAME} only")
        system, prompt = self.resolve_prompt(data)
        first = [] if system is None else [{"role": "system", "content": system}]
        first += [message.model_dump(exclude_none=True) for message in prompt or ()]
        episode = await self._environment.reset(_from_wire(data), episode_id=trace.id, messages=first)
        trace.state.episode = episode
        client = SdkClient(
            Endpoint(base_url=endpoint, api_key=SecretStr(secret), timeout=self.config.wall_clock, retries=3)
        )
        try:
            await _play(episode, client, ctx.model)
        except asyncio.CancelledError:
            # A time limit of verifiers; it scores what there is.
            await episode.stop()
            raise
        except Exception as fault:
            if not is_fault(fault):
                raise
            # Verifiers refuses the next turn when one of its limits is reached.
            await episode.stop(None if trace.stop_condition is not None else str(fault))
            if trace.stop_condition is None:
                raise
        finally:
            await client.close()
        return vf.ProgramResult(0, "", "")

    async def cleanup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        """Write the episode to the log, and let go of its images: traces are kept until the end of a run.

        Args:
            trace: of the rollout, scored.
            runtime: not used.
        """
        episode: Episode | None = getattr(trace.state, "episode", None)
        if episode is not None:
            trace.state.episode = None
            await episode.close()

    async def close(self) -> None:
        """Free the engines and the servers of tools."""
        await self._environment.close()


class EditingEnv(vf.Env[EditingEnvConfig]):
    """One policy on the tasks of the task set."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Run one rollout.

        Args:
            task: to play.
            agents: the one of `EditingEnvConfig`.
        """
        await agents.agent.run(task)

    async def stop(self) -> None:
        """Free the engines and tool servers, when verifiers has run its last task."""
        for harness in set(self._harnesses.values()):
            if isinstance(harness, EditingHarness):
                await harness.close()


def metrics_of(trajectory: Trajectory) -> dict[str, float]:
    """Return the numbers of a scored trajectory, under the names that our own training logs."""
    records = trajectory.tool_records
    return {
        "score": float(trajectory.score or 0.0),
        "success": float((trajectory.score or 0.0) >= SUCCESS),
        **{f"part/{name}": float(value) for name, value in trajectory.reward_parts.items()},
        **{f"aspect/{name}": float(value) for name, value in trajectory.aspects.items()},
        "turns": float(len(trajectory.turns)),
        "tool_calls": float(len(records)),
        "failed_calls": float(sum(record.error is not None for record in records)),
        "answered": float(trajectory.answered),
    }


async def _play(episode: Episode, client: SdkClient, model: str) -> None:
    """Ask for turns until the episode is over."""
    messages: list[Any] = list(episode.messages)
    tools: list[Any] = episode.tools
    while True:
        answer = await client.get().chat.completions.create(model=model, messages=messages, tools=tools)
        choice = answer.choices[0]
        # Sent back as it came, reasoning and all: so verifiers knows it again, and keeps the ids that were sampled.
        message = choice.message.model_dump(exclude_unset=True)
        messages.append(message)
        result = await episode.step(message, finish_reason="length" if choice.finish_reason == "length" else "stop")
        if result.done:
            return
        messages += result.messages


@functools.lru_cache(maxsize=8)
def _evaluation(config: str) -> EvaluationSetup:
    """Return the source of scores of a configuration as JSON. All tasks share it, since it limits how many run."""
    return ScoreSettings.model_validate_json(config).make_evaluation()


def _to_wire(task: EditTask) -> EditingData:
    def wire(source: ImageSource) -> str:
        return data_uri(without_transparency(load_image(source)))

    conversation: Mapping[str, Any] = task_conversation(task)
    [message] = conversation["messages"]
    parts = [
        {"type": "image_url", "image_url": {"url": wire(part["image"])}} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return EditingData(
        id=task.id,
        name=task.id,
        prompt=[vf.UserMessage(content=parts)],
        instruction=task.instruction,
        target=None if task.target is None else wire(task.target),
        mask=None if task.mask is None else data_uri(load_mask(task.mask)),
        task_type=task.task_type,
        metadata=dict(task.metadata),
    )


def _from_wire(data: EditingData) -> EditTask:
    prompt = data.prompt if isinstance(data.prompt, list) else ()
    parts = [part for message in prompt if isinstance(message.content, list) for part in message.content]
    return EditTask(
        id=data.id or data.instruction,
        instruction=data.instruction,
        images=tuple(part.image_url.url for part in parts if part.type == "image_url"),
        target=data.target,
        mask=data.mask,
        task_type=data.task_type,
        metadata=data.metadata,
    )
