"""The time that the policy had nothing to generate in a step's rollouts, and the tools that caused it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from agentfly.training.metrics.chain_report import Interval


def wait_metrics(intervals: Iterable[Interval]) -> dict[str, float]:
    """Return the waiting metrics of one step.

    The policy is idle while no chain generates and at least one waits for a tool. Each such moment is shared equally
    between the calls that run in it.

        wait/policy_idle          idle time / time from the first to the last event
        wait/because/TOOL         the tool's part of that share
        wait/seconds/TOOL         seconds in calls of the tool, over all chains
        wait/calls/TOOL           calls of the tool

    Args:
        intervals: of all chains of the step; see `agentfly.training.metrics.chain_report.intervals_of`.
    """
    known = [each for each in intervals if each.start > 0]
    if not known:
        return {}
    idle, whole = _idle_by_tool(known)
    tools = sorted({each.tool for each in known if each.tool})
    metrics = {"wait/policy_idle": sum(idle.values()) / whole if whole else 0.0}
    for tool in tools:
        mine = [each for each in known if each.tool == tool]
        metrics[f"wait/because/{tool}"] = idle[tool] / whole if whole else 0.0
        metrics[f"wait/seconds/{tool}"] = sum(each.end - each.start for each in mine)
        metrics[f"wait/calls/{tool}"] = float(len(mine))
    return metrics


def stall_in_words(metrics: Mapping[str, float]) -> str | None:
    """Return the waiting of a step in words; None if the policy waited for less than 5 % of the time."""
    share = metrics.get("wait/policy_idle", 0.0)
    causes = {name.removeprefix("wait/because/"): v for name, v in metrics.items() if name.startswith("wait/because/")}
    if share < 0.05 or not causes:
        return None
    worst = max(causes, key=lambda tool: causes[tool])
    return f"policy idle {share:.0%} because of {worst}"


def _idle_by_tool(intervals: list[Interval]) -> tuple[defaultdict[str, float], float]:
    """Return the idle seconds by tool, and the seconds from the first to the last event."""
    begins = [(each.start, 1, each.tool) for each in intervals]
    events = sorted(begins + [(each.end, -1, each.tool) for each in intervals])
    running: Counter[str] = Counter()
    idle: defaultdict[str, float] = defaultdict(float)
    before = events[0][0]
    for moment, change, tool in events:
        calls = sum(count for name, count in running.items() if name)
        if calls and not running[""]:
            for name, count in running.items():
                idle[name] += (moment - before) * count / calls
        running[tool] += change
        before = moment
    return idle, events[-1][0] - events[0][0]
