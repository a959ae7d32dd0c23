"""The tables of a run in Markdown, for a README, a paper's appendix or a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from agentfly.errors import printable
from agentfly.evaluation.protocols.figures import ProtocolSummary
from agentfly.evaluation.report.repeats import Cost, Costs, Interval
from agentfly.evaluation.report.summary import ALL, Figures, Judging, Summary

Row = Sequence[str]

_COSTS = ("tokens", "judge money", "tool seconds", "edits")


# A backslash before one of these characters would be taken for an escape, or would undo one of ours.
_BACKSLASH = re.compile(r"\\(?=[!-/:-@\[-`{-~])")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_LINK = re.compile(r"\](?=[(\[])")


def plain(text: str) -> str:
    """Return foreign text as one line of Markdown that shows it: no cell ends in it, and it is no HTML and no link."""
    line = _BACKSLASH.sub(r"\\\\", " ".join(printable(text).split()))
    line = _TAG.sub("&lt;", _ENTITY.sub("&amp;", line))
    return _LINK.sub(r"\]", line).replace("|", r"\|")


def table(head: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table. The first column is text; the others are figures, aligned to the right.

    Args:
        head: names of the columns.
        rows: each as long as `head`.
    """
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(plain(cell) for cell in line)} |" for line in lines) + "\n"


def interval(found: Interval | None, scale: float = 1.0, sign: str = "") -> str:
    """Return a mean with its interval as text, "–" for none.

    Args:
        found: of `agentfly.evaluation.report.summary.interval`.
        scale: factor on the figures.
        sign: "+" to write the sign of positive figures.
    """
    if found is None:
        return "–"
    mean, low, high = (scale * found[key] for key in ("mean", "low", "high"))
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def run_page(summary: Summary) -> str:
    """Return the page of a run."""
    groups = {**summary["by_type"], ALL: summary["all"]}
    seconds = summary.get("wall_clock_seconds")
    about = [("model", summary["model"]), ("split", summary["split"]), ("wall clock seconds", seconds)]
    missing = [
        f"- {label}: {count} × {plain(reason)}\n"
        for label in summary["evaluators"]
        for reason, count in summary["all"]["scores"][label]["reasons"].items()
    ]
    parts = [
        f"# {plain(summary['agent'])} on {plain(summary['data'])}\n",
        "".join(f"- {name}: {plain(str(value))}\n" for name, value in about if value is not None),
        *([] if summary["protocol"] is None else _benchmark(summary["protocol"])),
        "## Scores\n",
        _scores(summary["evaluators"], groups),
        f"Means from 0 to 100 over the tasks that were scored, with 95 % bootstrap intervals over tasks; success is a "
        f"score of {summary['success_from']:g} or more from {summary['evaluators'][0]}.\n",
        *(["Not scored, by evaluator:\n", "".join(missing)] if missing else []),
        *_repeats(summary["evaluators"], summary["all"]),
        "## Work\n",
        _work(groups),
        "Means an attempt; tokens are those of the policy (in + out). Seconds run from the start of an attempt to its "
        "end, waiting for others included.\n",
        *_cost(summary["evaluators"][0], summary["all"]["cost"]),
        *_judging(summary["all"]["judge"]),
        *_counts("Tools", "tool", {name: group["tools"] for name, group in groups.items()}),
        *_counts("How tasks ended", "stop reason", {name: group["stop_reasons"] for name, group in groups.items()}),
    ]
    return "\n".join(parts)


def _scores(labels: Sequence[str], groups: Mapping[str, Figures]) -> str:
    head = ["task type", "tasks", "failed", *labels, "success %", "not scored"]
    rows = []
    for name, group in groups.items():
        scores = [interval(group["scores"][label]["score"]) for label in labels]
        missing = " / ".join(str(group["scores"][label]["not_scored"]) for label in labels)
        counts = [str(group["tasks"]), str(group["failed"])]
        rows.append([_name(name), *counts, *scores, interval(group["success"], 100), missing])
    return table(head, rows)


def _work(groups: Mapping[str, Figures]) -> str:
    head = ["task type", "turns", "tool calls", "of them looks", "tool errors", "tokens", "mean s", "p50 s", "p95 s"]
    rows = []
    for name, group in groups.items():
        tokens, seconds = "–", group["seconds"] or {}
        if group["tokens"] is not None:
            tokens = " + ".join(f"{group['tokens'][key] / group['attempts']:.0f}" for key in ("prompt", "completion"))
        means = (group["turns"], group["tool_calls"], group["look_calls"], group["tool_errors"])
        work = [_number(value) for value in means]
        rows.append([_name(name), *work, tokens, *(_number(seconds.get(key)) for key in ("mean", "p50", "p95"))])
    return table(head, rows)


def _judging(judges: Mapping[str, Judging]) -> list[str]:
    if not judges:
        return []
    head = ["judge", "requests", "failed", "tokens in", "tokens out", "cost", "s a request"]
    rows = [
        [
            label,
            str(usage["requests"]),
            str(usage["failed_requests"]),
            str(usage["prompt_tokens"]),
            str(usage["completion_tokens"]),
            "not known" if usage["cost"] is None else f"{usage['cost']:.4f}",
            _number(usage["seconds"] / usage["requests"] if usage["requests"] else None),
        ]
        for label, usage in judges.items()
    ]
    return ["## Judging\n", table(head, rows), "A cost is known where the judge's spec gives its prices.\n"]


def _counts(title: str, what: str, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    names = list(counts[ALL])
    if not names:
        return []
    rows = [[name, *(str(group.get(name, 0)) for group in counts.values())] for name in names]
    return [f"## {title}\n", table([what, *map(_name, counts)], rows)]


def _name(group: str) -> str:
    return "**all**" if group == ALL else group


def _number(value: float | None, decimals: int = 2) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _benchmark(found: ProtocolSummary) -> list[str]:
    """Return the section of a protocol: source, prompts, judge and extent first, then the figures."""
    extent = f"{found['scored']} of {found['tasks']} tasks scored"
    if found["whole"] is False:
        extent += "; this is not the whole benchmark, and stands beside no published figure"
    models = ", ".join(f"{name} {value}" for name, value in found.get("models", {}).items())
    lines = [("split", found["split"]), ("protocol of", found["source"]), ("prompts", found.get("prompts"))]
    lines += [("judge", _judge(found)), ("models", models or None), ("extent", extent)]
    rows = []
    for figure in found["figures"]:
        mean, low, high = (
            _number(value, found["decimals"]) for value in (figure["mean"], figure["low"], figure["high"])
        )
        rows.append([figure["name"], figure["group"] or "**all**", f"{mean} [{low}, {high}]", str(figure["tasks"])])
    return [
        f"## {found['title']} by its own protocol\n",
        "".join(f"- {name}: {plain(str(value))}\n" for name, value in lines if value is not None),
        table(["figure", "type", "value", "tasks"], rows),
        f"{found['note']} 95 % bootstrap intervals over tasks.\n",
    ]


def _judge(found: ProtocolSummary) -> str | None:
    judge = found.get("judge")
    if judge is None:
        return None
    answered = ", ".join(judge["answered_by"]) or "no version named"
    words = f"{judge['model']} (answered by {answered}; {', '.join(judge['dates']) or 'no request'})"
    if judge["model"] != judge["authors"]:
        words += f"; the authors judge by {judge['authors']}: figures of another judge stand beside no published one"
    return words


def _repeats(labels: Sequence[str], figures: Figures) -> list[str]:
    """Return the section of several attempts at each task; empty where there was one."""
    if "repeats" not in figures:
        return []
    parts = ["## Repeats\n"]
    for label in labels:
        found, costs = figures["repeats"][label], figures["cost"]
        rows = []
        for k, share in found["pass_at"].items():
            cost = _cells(None if costs is None else costs["attempt"], float(k))
            rows.append([k, interval(share, 100), interval(found["mean_at_k"]), str(found["tasks_at"][k]), *cost])
        within, between = found["variance_within"], found["variance_between"]
        parts += [
            f"### {plain(label)}\n",
            table(["k", "pass@k %", "mean@k", "tasks", *(f"{name} a task" for name in _COSTS)], rows),
            f"Variance of scores: {_number(within)} within tasks, {_number(between)} between them.\n",
        ]
    return [
        *parts,
        "pass@k is the unbiased estimate of Chen et al. (2021) from all attempts at a task; mean@k is the mean of all "
        "of them, for any k. Costs are those of k attempts.\n",
    ]


def _cost(headline: str, costs: Costs | None) -> list[str]:
    """Return the section of costs; empty without an attempt."""
    if costs is None:
        return []
    rows = [["attempt", *_cells(costs["attempt"])]]
    if costs["point"] is not None:
        rows.append([f"point of {headline}", *_cells(costs["point"])])
    return ["## Cost\n", table(["for each", *_COSTS], rows)]


def _cells(cost: Cost | None, factor: float = 1.0) -> list[str]:
    values = (None,) * 4 if cost is None else (cost["tokens"], cost["judge"], cost["tool_seconds"], cost["edits"])
    return ["–" if value is None else f"{factor * value:.4g}" for value in values]
