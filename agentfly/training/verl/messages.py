"""The messages between the processes of a training run, each with the form in which Ray or verl's queue carries it.

    ChainRequest     trainer to agent-loop worker      keyword arguments of verl's `AgentLoopBase.run`
    ChainToScore     agent-loop worker to reward loop  a column of verl's `DataProto`, the chains of a group in its rows
    ScoredChain      reward loop to agent-loop worker  the dict that `run_single` returns
    UnscoredChain    reward loop to agent-loop worker  the same, with the reason alone; for a group a list of both
    ChainReport      agent-loop worker to trainer      an entry of the sample's `extra_fields` in the queue
    LostChain        agent-loop worker to trainer      a tag in a partition of the queue
    EngineFailure    agent-loop worker to trainer      a tag in another partition of the queue
    CheckResult      checking driver to launcher       a line of JSON on standard output

`FinishedChain` stays in its process; the messages of a worker are made from it. The launcher imports nothing of this
room: the mark in the log that ends a step's rollouts stands beside its reader (`agentfly.training.launch.log_reader`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from agentfly.agents import Trajectory, Turn
from agentfly.datasets import EditTask
from agentfly.images import ImageStore
from agentfly.training.metrics.chain_report import Interval
from agentfly.training.metrics.health import ChainFacts
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_dataset import TaskRow

LossReason: TypeAlias = Literal["not_scored", "tools", "backend", "cancelled", "bug", "no_room"]
LOSS_REASONS: tuple[LossReason, ...] = get_args(LossReason)
# Tags by partition and key, as verl's queue lists them.
Partitions: TypeAlias = Mapping[str, Mapping[str, Mapping[str, object]]]
# Our worker's keyword to its loops. verl knows of a validation in its worker, and passes it to no loop
# (verl/experimental/agent_loop/agent_loop.py:694).
VALIDATE = "agentfly_validate"


@dataclass(frozen=True)
class ChainRequest:
    """A sample that verl asks an agent loop for.

    Attributes:
        row: pointer to the task.
        uid: verl's name of the prompt, new in each step.
        session: number of the chain among those of its prompt.
        step: training step; -1 where verl gives none.
        validate: True for a chain of a validation.
    """

    row: TaskRow
    uid: str
    session: int = 0
    step: int = -1
    validate: bool = False

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> ChainRequest:
        """Read the keyword arguments of `AgentLoopBase.run`; numbers may be tensors of no dimension."""
        row = arguments["extra_info"]
        return cls(
            row={"index": int(row["index"]), "task_file": str(row["task_file"])},
            uid=str(arguments["uid"]),
            session=int(arguments.get("session_id", 0)),
            step=int(arguments.get("global_steps", -1)),
            validate=bool(arguments.get(VALIDATE, False)),
        )


@dataclass(frozen=True)
class FinishedChain:
    """A chain that has run and waits for its reward.

    Attributes:
        trajectory: its record; scoring adds score and reward.
        store: its images.
        task: the task of its row.
        request: the sample that verl asked for.
        settings: of the run.
    """

    trajectory: Trajectory
    store: ImageStore
    task: EditTask
    request: ChainRequest
    settings: TrainSettings


@dataclass(frozen=True)
class ChainToScore:
    """A chain on its way to the reward loop.

    Attributes:
        row: pointer to the task, which the reward loop reads itself.
        step: training step.
        trajectory: `Trajectory.to_json`.
        results: handle of the image after each turn; see `agentfly.training.metrics.chain_report.turn_results`.
        images: arrays by handle, which Ray passes without a copy.
    """

    row: TaskRow
    step: int
    trajectory: str
    results: Sequence[str | None]
    images: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, chain: FinishedChain, results: Sequence[str | None], images: Collection[str]) -> ChainToScore:
        """Pack a chain.

        Args:
            chain: finished, not scored.
            results: handle of the image after each turn.
            images: handles of the images that scoring needs.
        """
        arrays = {handle: np.asarray(chain.store.get(handle)) for handle in images}
        request = chain.request
        return cls(request.row, request.step, chain.trajectory.to_json(), results, arrays)

    @staticmethod
    def to_batch(chains: Sequence[ChainToScore]) -> dict[str, np.ndarray]:
        """Return the non-tensor batch of a `DataProto`; verl takes columns of objects, one object a sample."""
        column = np.empty(len(chains), dtype=object)
        column[:] = chains
        return {"chain": column}

    @classmethod
    def from_batch(cls, batch: Mapping[str, np.ndarray]) -> list[ChainToScore]:
        """Read the batch of `to_batch`."""
        found = list(batch["chain"])
        assert all(isinstance(chain, cls) for chain in found)
        return found

    def unpack(self) -> tuple[Trajectory, ImageStore]:
        """Return the trajectory and a store with the images that were sent."""
        store = ImageStore()
        for array in self.images.values():
            store.put(Image.fromarray(array))
        return Trajectory.from_json(self.trajectory), store


@dataclass(frozen=True)
class UnscoredChain:
    """The reward loop's answer for a chain that its evaluator cannot score.

    Attributes:
        reason: the fault in words.
    """

    reason: str

    def to_answer(self) -> dict[str, object]:
        """Return the dict that verl hands back to the worker."""
        return {"not_scored": self.reason}


@dataclass(frozen=True)
class ScoredChain:
    """The reward loop's answer for a chain that is scored.

    Attributes:
        score, aspects: of the evaluator, 0 to 100.
        reward, parts: the reward and the terms that it is the sum of.
        token_rewards: one number for each response token, adding up to the reward; None where the last token gets all.
        audit: the second evaluator's score (0 to 100); None where the chain was not audited, NaN where it could not be.
        relative: the score compares the chain with the others of its group.
    """

    score: float | None
    aspects: Mapping[str, float]
    reward: float | None
    parts: Mapping[str, float]
    token_rewards: tuple[float, ...] | None = None
    audit: float | None = None
    relative: bool = False

    def to_answer(self) -> dict[str, object]:
        """Return the dict that verl hands back to the worker; verl calls the reward `reward_score`."""
        answer = asdict(self)
        return {"reward_score": answer.pop("reward"), **answer}

    @staticmethod
    def from_answer(answer: Mapping[str, object]) -> ScoredChain | UnscoredChain:
        """Read the answer of `to_answer`, of this class or of `UnscoredChain`."""
        if (reason := answer.get("not_scored")) is not None:
            return UnscoredChain(str(reason))
        return _SCORED.validate_python({"reward": answer["reward_score"], **answer})

    def write_on(self, trajectory: Trajectory) -> None:
        """Write score, aspects, reward and parts on the trajectory that was sent."""
        trajectory.score, trajectory.aspects = self.score, dict(self.aspects)
        trajectory.reward, trajectory.reward_parts = self.reward, dict(self.parts)

    def credit(self, turns: Sequence[Turn]) -> tuple[float, ...]:
        """Return the reward of each turn, which add up to the reward; empty where the last token gets all.

        Args:
            turns: of the chain; all rewards are on tokens that they sampled.
        """
        if self.token_rewards is None:
            return ()
        return tuple(math.fsum(self.token_rewards[turn.start : turn.end]) for turn in turns)


def to_answers(answers: Sequence[ScoredChain | UnscoredChain]) -> dict[str, object]:
    """Return the answers for a group as the dict that verl hands back to the worker."""
    return {"answers": [answer.to_answer() for answer in answers]}


def from_answers(answer: Mapping[str, object]) -> list[ScoredChain | UnscoredChain]:
    """Read the dict of `to_answers`."""
    found = answer["answers"]
    assert isinstance(found, list)
    return [ScoredChain.from_answer(each) for each in found]


@dataclass(frozen=True)
class CacheCounts:
    """Counters of a process's tool cache; they never go down.

    Attributes:
        process: its pid.
        hits, misses: since the process started.
    """

    process: int
    hits: int
    misses: int


@dataclass(frozen=True)
class ChainReport:
    """The report of a chain that is trained on, for the metrics of its step.

    Attributes:
        id, group: of the trajectory.
        reward, parts: the reward and its terms.
        audit: see `ScoredChain`.
        facts: for the health monitor.
        intervals: times of generations and tool calls, in seconds since 1970.
        stop: reason for which the chain ended.
        digest: of the sampled ids and their mask; see `agentfly.training.verl.parity.digest`.
        row: of its task, in the task file.
        cache: of the tools, as the chain's end found it; None without a cache.
        relative: see `ScoredChain`.
        agreement: how far the judge's orders of the group agree, 0 to 1; None where it was not ranked in several.
    """

    id: str
    group: str
    reward: float
    parts: Mapping[str, float]
    audit: float | None
    facts: ChainFacts
    intervals: Sequence[Interval]
    stop: str
    digest: str
    row: int
    cache: CacheCounts | None = None
    relative: bool = False
    agreement: float | None = None

    def add_to(self, extra_fields: dict[str, Any]) -> None:
        """Write the report into the `extra_fields` of verl's output, the one field that is open for more."""
        extra_fields["agentfly"] = asdict(self)

    @classmethod
    def from_fields(cls, extra_fields: Mapping[str, object]) -> ChainReport:
        """Read the report that `add_to` wrote."""
        return _REPORT.validate_python(extra_fields["agentfly"])


@dataclass(frozen=True)
class LostChain:
    """A chain that does not reach the trainer; see `agentfly.training.verl.chain_faults`.

    Attributes:
        prompt: verl's uid of its prompt.
        reason: the kind of fault.
        message: the fault in words.
        answered: True if the policy had finished it with an answer.
        validate: True for a chain of a validation.
    """

    PARTITION: ClassVar[str] = "agentfly-lost-chains"

    prompt: str
    reason: LossReason
    message: str
    answered: bool
    validate: bool

    async def put(self, session: int) -> None:
        """Put the chain into the queue as a tag without data.

        Args:
            session: its number among the chains of its prompt.
        """
        import transfer_queue as tq

        await tq.async_kv_put(key=f"{self.prompt}_{session}", partition_id=self.PARTITION, tag=asdict(self))

    @classmethod
    def find(cls, partitions: Partitions, *, validate: bool) -> dict[str, LostChain]:
        """Return the lost chains of training or of a validation by their keys in the queue.

        Args:
            partitions: all tags of the queue.
            validate: True for those of a validation.
        """
        # The queue lists a key a moment before its tag.
        tags = {key: tag for key, tag in partitions.get(cls.PARTITION, {}).items() if tag}
        lost = {key: _LOST.validate_python(tag) for key, tag in tags.items()}
        return {key: chain for key, chain in lost.items() if chain.validate == validate}


@dataclass(frozen=True)
class EngineFailure:
    """A rollout engine that died.

    Its chains are cut short or missing through no fault of the policy. An update on the rest of a step would be written
    to a checkpoint, and a resumed run would continue from it: the trainer must end instead.

    Attributes:
        fault: the error in words.
    """

    PARTITION: ClassVar[str] = "agentfly-lost"

    fault: str

    async def put(self) -> None:
        """Put the failure into the queue as a tag without data."""
        import transfer_queue as tq

        await tq.async_kv_put(key="engine", partition_id=self.PARTITION, tag=asdict(self))

    @classmethod
    def find(cls, partitions: Partitions) -> EngineFailure | None:
        """Return the failure that a worker has put into the queue, None if there is none.

        Args:
            partitions: all tags of the queue.
        """
        # The queue lists a key a moment before its tag.
        return next((cls(str(tag["fault"])) for tag in partitions.get(cls.PARTITION, {}).values() if tag), None)


@dataclass(frozen=True)
class CheckResult:
    """The result of the checks before a run.

    Attributes:
        faults: problems that keep the run from starting.
        passed: a sentence about each check that found nothing wrong.
        cautions: a sentence about each thing that does not keep the run from starting, and may spoil it.
    """

    faults: Sequence[str]
    passed: Sequence[str]
    cautions: Sequence[str] = ()

    def to_line(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> CheckResult | None:
        """Read the last line that `to_line` wrote among others; None if there is none."""
        found = [line for line in lines if line.startswith("{")]
        return _CHECKED.validate_json(found[-1]) if found else None


_SCORED, _REPORT, _LOST = TypeAdapter(ScoredChain), TypeAdapter(ChainReport), TypeAdapter(LostChain)
_CHECKED = TypeAdapter(CheckResult)
