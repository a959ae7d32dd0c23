"""Chains that do not reach the trainer: the worker that ran them reports them, and the trainer decides if it may learn.

A step learns from the chains that are left. If faults choose which are left, it learns what nobody meant to teach: with
a judge that is down, only chains without an answer have a reward. The fate of a chain:

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
chains of a prompt. It samples another one, and ends the run when that is no better. An asynchronous trainer puts
another prompt in the place of each that has lost a chain, so that only the share counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from agentfly.agents import StopReason
from agentfly.agents.token_check import TokenTrace
from agentfly.errors import ToolOutage, TrainingError, first_line
from agentfly.training.verl.messages import LOSS_REASONS, FinishedChain, LossReason, LostChain

_STOPPED: Mapping[StopReason, LossReason] = {
    StopReason.TOOL_OUTAGE: "tools",
    StopReason.BACKEND_ERROR: "backend",
    StopReason.CANCELLED: "cancelled",
    StopReason.ERROR: "bug",
}


class ChainFault(TrainingError):
    """A chain that is not trained on.

    Attributes:
        reason: see the module.
        chain: as far as it came.
    """

    def __init__(self, reason: LossReason, message: str, chain: FinishedChain) -> None:
        super().__init__(message)
        self.reason, self.chain = reason, chain


def stopped_by(reason: StopReason | None) -> LossReason | None:
    """Return the reason why a chain that stopped like this is lost; None if it is scored."""
    return None if reason is None else _STOPPED.get(reason)


def check_trainable(chain: FinishedChain, max_response_tokens: int) -> TokenTrace:
    """Return the tokens of a chain that may be trained on.

    Args:
        chain: finished.
        max_response_tokens: tokens after the prompt that the trainer has room for.

    Raises:
        ChainFault: it must not be trained on.
    """
    trajectory = chain.trajectory
    check_ended(chain)
    tokens = trajectory.tokens
    if tokens is None or not tokens.response_ids:
        raise ChainFault("no_room", f"chain {trajectory.id} sampled nothing: {trajectory.stop_reason}", chain)
    if (length := len(tokens.response_ids)) > max_response_tokens:
        raise ChainFault("no_room", f"chain {trajectory.id}: {length} ids do not fit in {max_response_tokens}", chain)
    return tokens


def check_ended(chain: FinishedChain) -> None:
    """Raise `ChainFault` if a fault ended a chain: its reward would blame the policy for what is not the policy's."""
    trajectory = chain.trajectory
    if (reason := stopped_by(trajectory.stop_reason)) is not None:
        why = trajectory.error or trajectory.stop_reason
        raise ChainFault(reason, f"chain {trajectory.id} is not trained on: {why}", chain)


def lost_chain(fault: Exception, prompt: str, *, validate: bool) -> LostChain:
    """Return the message about a lost chain.

    Args:
        fault: the end of the chain: a `ChainFault`, a `ToolOutage` before its first turn, or a bug.
        prompt: verl's uid of its prompt.
        validate: True for a chain of a validation.
    """
    if isinstance(fault, ChainFault):
        return LostChain(prompt, fault.reason, first_line(fault), fault.chain.trajectory.answered, validate)
    if isinstance(fault, ToolOutage):
        return LostChain(prompt, "tools", first_line(fault), False, validate)
    return LostChain(prompt, "bug", f"{type(fault).__name__}: {first_line(fault)}", False, validate)


def why_unfit(
    kept: Mapping[str, Sequence[bool]], lost: Iterable[LostChain], share: float, *, replaced: bool = False
) -> str | None:
    """Return the reason why a step must not be trained on; None if it may be.

    Args:
        kept: for each prompt (verl's uid), True for each chain that is left and has answered, False for the others.
        lost: the chains that are not left.
        share: part of all chains that may be lost, 0 to 1.
        replaced: prompts that lost chains are not among those of the step.
    """
    lost = list(lost)
    total = len(lost) + sum(map(len, kept.values()))
    if len(lost) > share * total:
        return f"{len(lost)} of {total} chains were lost: {in_words(lost)}"
    for prompt in {chain.prompt for chain in lost if chain.answered and not replaced}:
        if not any(kept.get(prompt, ())):
            gone = [chain for chain in lost if chain.prompt == prompt]
            return f"a prompt lost all of its answered chains: {in_words(gone)}"
    return None


def in_words(lost: Iterable[LostChain]) -> str:
    """Return the number of lost chains by reason, most first, each with the message of one chain."""
    examples: dict[LossReason, str] = {}
    counts: Counter[LossReason] = Counter()
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
        kept: number of chains that did.
    """
    counts = Counter(chain.reason for chain in lost)
    total = counts.total()
    metrics = {f"chains/lost/{reason}": float(counts[reason]) for reason in LOSS_REASONS if counts[reason]}
    return {"chains/lost": float(total), "chains/lost_share": total / max(1, total + kept), **metrics}
