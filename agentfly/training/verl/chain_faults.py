"""Chains that do not reach the trainer: reported by the worker that ran them, judged by the trainer before it learns.

A step learns from the chains that are left. Where a fault chooses which are left, it learns something that nobody
taught: with a judge that is down, only chains without an answer have a reward. What becomes of a chain:

    not scored by its evaluator                              lost, "not_scored"
    stopped by a tool whose servers are out of order         lost, "tools"
    stopped by its rollout engine                            lost, "backend"
    aborted by its rollout engine                            lost, "cancelled"
    stopped by a bug, of a tool for example                  lost, "bug"
    nothing sampled, or more than fits: the prompt is long   lost, "no_room"
    a tool refused, failed or timed out                      scored: the policy saw it, and chose what it asked for
    cut by a limit of turns, tokens, calls or images         scored as it stands: the limits are part of the task
    cut by its wall clock                                    scored as it stands, counted in `chains/stop/wall_clock`

The trainer does not learn from a step that has lost more than `LostChainLimits.share` of its chains, or all answered
chains of a prompt. It samples another one, and ends the run when that is no better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from agentfly.agents import StopReason
from agentfly.errors import TrainingError, first_line

if TYPE_CHECKING:
    from agentfly.training.verl.agent_loop import FinishedChain

Reason: TypeAlias = Literal["not_scored", "tools", "backend", "cancelled", "bug", "no_room"]
REASONS: tuple[Reason, ...] = get_args(Reason)
PARTITION = "agentfly-lost-chains"  # of verl's queue, where both look anyway
_STOPPED: Mapping[StopReason, Reason] = {
    StopReason.TOOL_OUTAGE: "tools",
    StopReason.BACKEND_ERROR: "backend",
    StopReason.CANCELLED: "cancelled",
    StopReason.ERROR: "bug",
}


class ChainFault(TrainingError):
    """A chain that is not trained on.

    Attributes:
        reason: see the module.
        chain: what there is of it.
    """

    def __init__(self, reason: Reason, message: str, chain: FinishedChain) -> None:
        super().__init__(message)
        self.reason, self.chain = reason, chain


@dataclass(frozen=True)
class LostChain:
    """What a worker reports of a chain that is lost; crosses verl's queue as a tag.

    Attributes:
        prompt: verl's uid of its prompt.
        reason: see the module.
        message: the fault in words.
        answered: whether the policy had finished it with an answer.
        validate: whether it belongs to a validation.
    """

    prompt: str
    reason: Reason
    message: str
    answered: bool
    validate: bool


def stopped_by(reason: StopReason | None) -> Reason | None:
    """Return why a chain that stopped like this is lost; None where it is scored."""
    return None if reason is None else _STOPPED.get(reason)


async def report(fault: Exception, prompt: str, session: int, *, validate: bool) -> None:
    """Report a lost chain to the trainer, from a worker.

    Args:
        fault: what ended it; anything but a `ChainFault` is a bug.
        prompt: verl's uid of its prompt.
        session: its number among the chains of the prompt.
        validate: whether it belongs to a validation.
    """
    import transfer_queue as tq

    known = fault if isinstance(fault, ChainFault) else None
    lost = LostChain(
        prompt,
        known.reason if known else "bug",
        first_line(fault) if known else f"{type(fault).__name__}: {first_line(fault)}",
        known is not None and known.chain.trajectory.answered,
        validate,
    )
    await tq.async_kv_put(key=f"{prompt}_{session}", partition_id=PARTITION, tag=asdict(lost))


def lost_in(partitions: Mapping[str, Mapping[str, Mapping[str, Any]]], *, validate: bool) -> dict[str, LostChain]:
    """Return the lost chains of training or of a validation by their keys in the queue.

    Args:
        partitions: what the queue holds: tags by partition and key.
        validate: which of the two.
    """
    # A key is listed a moment before its tag.
    lost = {key: LostChain(**tag) for key, tag in partitions.get(PARTITION, {}).items() if tag}
    return {key: chain for key, chain in lost.items() if chain.validate == validate}


def why_unfit(kept: Mapping[str, Sequence[bool]], lost: Iterable[LostChain], share: float) -> str | None:
    """Return why a step must not be trained on; None where it may be.

    Args:
        kept: for each prompt (verl's uid), whether each of the chains that are left has answered.
        lost: the chains that are not left.
        share: of all chains that may be lost, 0 to 1.
    """
    lost = list(lost)
    total = len(lost) + sum(map(len, kept.values()))
    if len(lost) > share * total:
        return f"{len(lost)} of {total} chains were lost: {in_words(lost)}"
    for prompt in {chain.prompt for chain in lost if chain.answered}:
        if not any(kept.get(prompt, ())):
            gone = [chain for chain in lost if chain.prompt == prompt]
            return f"a prompt lost all of its answered chains: {in_words(gone)}"
    return None


def in_words(lost: Iterable[LostChain]) -> str:
    """Return how many chains were lost for each reason, most first, each with the message of one of them."""
    examples: dict[Reason, str] = {}
    counts: Counter[Reason] = Counter()
    for chain in lost:
        counts[chain.reason] += 1
        examples.setdefault(chain.reason, chain.message)
    return "; ".join(
        f"{count} {reason.replace('_', ' ')} ({examples[reason]})" for reason, count in counts.most_common()
    )


def loss_metrics(lost: Iterable[LostChain], kept: int) -> dict[str, float]:
    """Return `chains/lost`, `chains/lost_share` (0 to 1), and `chains/lost/REASON` for the reasons that occurred.

    Args:
        lost: chains that did not reach the trainer.
        kept: number of those that did.
    """
    counts = Counter(chain.reason for chain in lost)
    total = counts.total()
    metrics = {f"chains/lost/{reason}": float(counts[reason]) for reason in REASONS if counts[reason]}
    return {"chains/lost": float(total), "chains/lost_share": total / max(1, total + kept), **metrics}
