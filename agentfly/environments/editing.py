"""Episodes of our rollout whose policy is elsewhere.

An episode is a chain of `agentfly.agents.rollout`: the same tools, observations, limits and stop reasons, in the same
order. Only the turns come from outside, one with each `step`. So what another trainer trains here is what `agentfly
eval` measures and what `agentfly edit` runs.

The clock of the rollout runs while the other program thinks: an episode whose policy is silent ends by itself, with
`StopReason.WALL_CLOCK`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from agentfly.agents import (
    Agent,
    Chain,
    EvaluationSetup,
    Rollout,
    StopReason,
    Trajectory,
    score_trajectory,
    task_conversation,
)
from agentfly.agents.inputs import OneConversation
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, TrajectoryLine, append_line
from agentfly.datasets import EditTask
from agentfly.environments.policy import ExternalPolicy, read_turn
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import NotScored, Score
from agentfly.images import ImageStore, data_uri, without_transparency
from agentfly.messages import Message

logger = logging.getLogger(__name__)

WireMessage = Mapping[str, Any]


@dataclass(frozen=True)
class StepResult:
    """The answer of an episode to a turn.

    Attributes:
        messages: the observations, as messages in OpenAI's form; images are data URIs (PNG). There
            are none with the last step.
        done: the episode is over.
        reward: of the whole chain, with the last step; None before, and where there is none.
        info: see `Episode.info`.
    """

    messages: tuple[WireMessage, ...]
    done: bool = False
    reward: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


class TrajectoryLog:
    """A folder with the trajectories of episodes; several processes may write to it.

    Args:
        folder: made when it is not there.
        label: the name of the scores.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self._file = folder / FILE_NAME
        self._images = ImageStore(folder / IMAGES)
        self._label = label

    async def write(self, episode: Episode) -> None:
        """Write an episode and its images."""
        await asyncio.to_thread(self._write, episode)

    def _write(self, episode: Episode) -> None:
        trajectory = episode.trajectory
        self._images.copy_from(episode.chain.view.store, trajectory.handles)
        scores: dict[str, Score | NotScored] = {}
        if trajectory.score is not None:
            scores[self._label] = Score(trajectory.score, aspects=trajectory.aspects)
        elif episode.not_scored:
            scores[self._label] = NotScored(episode.not_scored)
        self._images.sync()
        # Episodes of one task are many; a line with the whole task stands for all that was made of it.
        append_line(self._file, replace(TrajectoryLine.of_chain(trajectory), scores=scores))


class EditingEnvironment:
    """Begins episodes; any number may run at once.

    Args:
        agent: whose tools, system prompt and limits the episodes have; its backend is an `ExternalPolicy`.
        evaluation: scores an episode with its last step; None leaves that to the caller.
        log: keeps every episode; None for none.

    Raises:
        ConfigError: the agent has a policy of its own.
    """

    def __init__(
        self, agent: Agent, evaluation: EvaluationSetup | None = None, log: TrajectoryLog | None = None
    ) -> None:
        if not isinstance(agent.backend, ExternalPolicy):
            raise ConfigError("the agent of an environment has no policy: make it with backend=ExternalPolicy()")
        self.agent = agent
        self.evaluation = evaluation
        self.log = log
        self._policy = agent.backend
        self._running: set[Episode] = set()

    async def reset(
        self,
        task: EditTask,
        *,
        episode_id: str | None = None,
        messages: Sequence[Mapping[str, object]] | None = None,
    ) -> Episode:
        """Begin an episode.

        Args:
            task: what is to be done.
            episode_id: of the trajectory, unique among those that run; made up by default.
            messages: the first messages, in place of those that the task gives.

        Raises:
            ConfigError: an episode of that id is running, or the agent cannot begin.
            ToolOutage: a server of its tools does not answer.
            ImageError: an image of the task cannot be loaded.
        """
        conversation: OneConversation = task_conversation(task)
        if messages is not None:
            conversation = {**conversation, "messages": list(messages)}
        await self.agent.prepare()
        # A store for each episode: nothing of it stays when it is over.
        chain = await asyncio.to_thread(self.agent.chain, conversation, task.id, store=ImageStore())
        chain.trajectory.id = chain.session = episode_id or f"{task.id}-{uuid4().hex[:12]}"
        episode = Episode(self, chain, task, self._policy)
        self._running.add(episode)
        try:
            await episode.begin()
        except BaseException:
            await episode.close()
            raise
        return episode

    def forget(self, episode: Episode) -> None:
        """Let go of an episode that is closed."""
        self._running.discard(episode)

    async def close(self) -> None:
        """End the episodes that run, and free the agent's engines."""
        for episode in tuple(self._running):
            await episode.close()
        await self.agent.close()


class Episode:
    """One chain. `step` gives a turn of the policy and returns what the tools did with it.

    Attributes:
        chain, task: of the episode.
        messages: the first messages, in OpenAI's form; images are data URIs (PNG).
        not_scored: the reason why there is no score; empty while there may be one.
    """

    def __init__(self, environment: EditingEnvironment, chain: Chain, task: EditTask, policy: ExternalPolicy) -> None:
        self.chain, self.task = chain, task
        self.messages: tuple[WireMessage, ...] = ()
        self.not_scored = ""
        self._environment, self._policy = environment, policy
        self._seat = policy.take_seat(chain.session)
        rollout = Rollout(policy, environment.agent.settings.limits)
        self._run = asyncio.create_task(rollout.run(chain))
        self._shown = 0
        self._state = "begun"
        self._recorded = False

    @property
    def trajectory(self) -> Trajectory:
        """The record of the chain; complete when the episode is over."""
        return self.chain.trajectory

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The schemas of the tools, in OpenAI's form."""
        return self.chain.tools.schemas()

    @property
    def info(self) -> dict[str, Any]:
        """Facts of the episode, for JSON: id and type of the task, turns, tool calls; when it is over also stop
        reason, error, score (0 to 100), its aspects, and the parts of the reward.
        """
        trajectory = self.trajectory
        known: dict[str, Any] = {
            "episode_id": trajectory.id,
            "task_id": self.task.id,
            "task_type": self.task.task_type,
            "turns": len(trajectory.turns),
            "tool_calls": len(trajectory.tool_records),
        }
        if trajectory.stop_reason is not None:
            known |= {
                "stop_reason": str(trajectory.stop_reason),
                "answer": trajectory.answer,
                "error": trajectory.error,
                "score": trajectory.score,
                "aspects": dict(trajectory.aspects),
                "reward_parts": dict(trajectory.reward_parts),
                "not_scored": self.not_scored or None,
            }
        return known

    async def begin(self) -> None:
        """Wait until the policy is asked for its first turn; `EditingEnvironment.reset` does this.

        Raises:
            ConfigError: the chain ends before that.
        """
        if await self._advance():
            reason = self.trajectory.error or f"it ended at once ({self.trajectory.stop_reason})"
            raise ConfigError(f"the episode cannot begin: {reason}")
        self.messages = await self._unseen()

    async def step(self, message: str | Mapping[str, object], *, finish_reason: str = "stop") -> StepResult:
        """Take a turn and its tool calls.

        A wrong message changes nothing: the turn can be given again.

        Args:
            message: see `agentfly.environments.policy.read_turn`.
            finish_reason: "length" where a limit cut the turn; such a turn without a call did not decide to stop.

        Raises:
            ConfigError: the message is no turn, another step is under way, or the episode is over.
        """
        if self._state == "stepping":
            raise ConfigError("a step of this episode is under way: wait for its result")
        if self._state == "over":
            raise ConfigError(f"this episode is over ({self.trajectory.stop_reason}): begin another one")
        turn = read_turn(message, finish_reason)
        self._state = "stepping"
        try:
            if not self._run.done():
                self._seat.give(turn)
                self._shown += 1  # the turn itself, which the other program knows
            if await self._advance():
                return await self._end()
            result = StepResult(await self._unseen(), info=self.info)
        except BaseException:
            await self.stop()
            raise
        self._state = "begun"
        return result

    async def score(self, evaluation: EvaluationSetup) -> None:
        """Write score and reward on the trajectory of an episode that is over.

        Raises:
            EvaluatorError: a fault ended the chain, or the evaluator has no score.
        """
        try:
            if self.trajectory.failed:
                raise EvaluatorError(f"the episode failed: {self.trajectory.error or self.trajectory.stop_reason}")
            await score_trajectory(self.trajectory, self.task, self.chain.view.store, evaluation)
        except EvaluatorError as fault:
            self.not_scored = str(fault)
            raise

    async def stop(self, error: str | None = None) -> None:
        """End the episode where it is, as a limit of the other program asks. It can be scored as it stands.

        Args:
            error: the fault of the policy that ended it; it cannot be scored then.
        """
        if not self._run.done():
            self._run.cancel()
            await asyncio.wait({self._run})
            reason = StopReason.STOPPED if error is None else StopReason.BACKEND_ERROR
            self.trajectory.stop_reason, self.trajectory.error = reason, error
        self._state = "over"

    async def close(self) -> None:
        """End the episode where it is, and write it to the log if it has a turn. Safe to call twice."""
        self._state = "over"
        self._run.cancel()
        await asyncio.wait({self._run})
        self._policy.leave_seat(self.chain.session)
        self._environment.forget(self)
        if self._environment.log is not None and not self._recorded and self.trajectory.turns:
            self._recorded = True
            await self._environment.log.write(self)

    async def _advance(self) -> bool:
        """Wait until the policy is asked for a turn, or the chain is over; return True if it is."""
        asked = asyncio.ensure_future(self._seat.asked.get())
        try:
            await asyncio.wait({asked, self._run}, return_when=asyncio.FIRST_COMPLETED)
            return not asked.done()
        finally:
            asked.cancel()

    async def _unseen(self) -> tuple[WireMessage, ...]:
        """Return the messages that the other program has not seen yet."""
        fresh, self._shown = self.trajectory.messages[self._shown :], len(self.trajectory.messages)
        return await asyncio.to_thread(self._encode, fresh)

    def _encode(self, messages: Sequence[Message]) -> tuple[WireMessage, ...]:
        get = self.chain.view.store.get
        return tuple(m.to_openai(lambda handle: data_uri(without_transparency(get(handle)))) for m in messages)

    async def _end(self) -> StepResult:
        if self._environment.evaluation is not None:
            try:
                await self.score(self._environment.evaluation)
            except EvaluatorError as fault:
                logger.warning("no reward for %s: %s", self.trajectory.id, fault)
            await self.close()
        self._state = "over"
        return StepResult((), True, self.trajectory.reward, self.info)
