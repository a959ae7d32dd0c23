"""The charts of a run's steps, in the sections that a researcher looks for them in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentfly.viewer.charts import Chart, Line, Unit, chart, number_text, sparkline
from agentfly.viewer.overview.cells import Cells, Sums
from agentfly.viewer.overview.gains import Mean
from agentfly.viewer.runs.metric_names import PHASES, SECTIONS, meaning_of
from agentfly.viewer.runs.metrics import Metrics, Points

_MOST_LINES = 6
_MOST_TYPES = 6
_GLANCE = ("Reward", "Held-out score", "Held-out values")


@dataclass(frozen=True)
class Section:
    """Charts under one heading."""

    title: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class MetricRow:
    """A metric in the list of all.

    Attributes:
        name: of the metric.
        section, about: see `meaning_of`.
        first, last, low, high: values in few digits.
        spark: points of a small polyline; "" for one value.
        count: steps that have it.
    """

    name: str
    section: str
    about: str
    first: str
    last: str
    low: str
    high: str
    spark: str
    count: int


@dataclass(frozen=True)
class OtherRun:
    """What is drawn of a run to compare with: see `Curves`."""

    name: str
    metrics: Metrics
    held_out: Mapping[int, Mean]


@dataclass(frozen=True)
class Curves:
    """What the charts of a run are drawn from.

    Attributes:
        metrics: of the run.
        cells: of its chains.
        rewards, held_out: mean reward of the trained chains, and score of the validations, by step with intervals.
        other: run to compare with; None for none.
    """

    metrics: Metrics
    cells: Cells
    rewards: Mapping[int, Mean]
    held_out: Mapping[int, Mean]
    other: OtherRun | None = None


def sections_of(curves: Curves) -> tuple[Section, ...]:
    """Return the sections that have a chart."""
    parts: tuple[tuple[str, Callable[[Curves], Iterable[Chart | None]]], ...] = (
        ("Learning", _learning),
        ("Rollout", _rollout),
        ("Tools", _tools),
        ("Time", _time),
        ("Health and audit", _health),
        ("Optimiser", _optimiser),
    )
    made = (Section(title, tuple(c for c in draw(curves) if c is not None)) for title, draw in parts)
    return tuple(section for section in made if section.charts)


def split_glance(sections: tuple[Section, ...]) -> tuple[tuple[Chart, ...], tuple[Section, ...]]:
    """Return the charts that say most, and the sections without them."""
    glance = tuple(chart for section in sections for chart in section.charts if chart.title in _GLANCE)
    rest = (Section(s.title, tuple(chart for chart in s.charts if chart.title not in _GLANCE)) for s in sections)
    return glance, tuple(section for section in rest if section.charts)


def metric_rows(metrics: Metrics) -> list[MetricRow]:
    """Return all metrics, section by section."""
    rows = []
    for name, points in metrics.series.items():
        section, about = meaning_of(name)
        values = [y for _, y in points]
        first, last, low, high = map(number_text, (values[0], values[-1], min(values), max(values)))
        rows.append(MetricRow(name, section, about, first, last, low, high, sparkline(points), len(points)))
    return sorted(rows, key=lambda row: (SECTIONS.index(row.section), row.name))


def _learning(c: Curves) -> Iterable[Chart | None]:
    metrics = c.metrics
    rewards = _means(c.rewards) if len(c.rewards) > 1 else None
    mean = metrics.get("reward/mean") or metrics.get("critic/rewards/mean")
    line = Line("reward", mean, noisy=True) if mean or rewards is None else rewards
    # Chains of a step in progress have no metrics yet.
    if rewards is not None and mean and all(x in c.rewards for x, _ in mean):
        band = dict(zip((x for x, _ in rewards.points), rewards.band, strict=True))
        line = Line("reward", mean, [band[x] for x, _ in mean], noisy=True)
    others = (
        [] if c.other is None else [Line(c.other.name, c.other.metrics.get("reward/mean"), dashed=True, noisy=True)]
    )
    yield chart("Reward", [line, *others], about="mean over the chains of a step; band: 95 % interval over prompts")
    yield chart("Reward parts", _lines(metrics.under("reward/part/"), noisy=True), about="add up to the reward")
    yield _by_type(
        "Success by task type, trained", c.cells.trained, "share of chains with a score of 80 or more", noisy=True
    )
    held_out = [_means(c.held_out)] if c.held_out else []
    if held_out and c.other is not None:
        theirs = [(float(step), mean.mean) for step, mean in c.other.held_out.items()]
        held_out.append(Line(c.other.name, theirs, dashed=True))
    yield chart("Held-out score", held_out, (0, 100), about="score of the validation; band: 95 % interval over tasks")
    yield _by_type(
        "Held-out success by task type", c.cells.validated, "share of validation chains with a score of 80 or more"
    )
    yield from _prompts(c)


def _prompts(c: Curves) -> Iterable[Chart | None]:
    metrics = c.metrics
    known = {} if c.held_out else metrics.under("val-core/")
    named = {name.removesuffix("/reward/mean@1"): points for name, points in known.items()}
    yield chart("Held-out values", _lines(named), about="of the validations, as verl logs them")
    flat = {"all equal": "zero_variance", "too hard": "all_worst", "too easy": "all_best"}
    shown = {label: metrics.get(f"reward/group/{name}") for label, name in flat.items()}
    yield chart(
        "Prompts that teach nothing",
        _lines(shown, noisy=True),
        (0, 1),
        unit="%",
        about="all chains of the prompt have the same reward",
    )
    yield chart(
        "Spread of rewards in a prompt",
        _lines({"": metrics.get("reward/group/std_within")}, noisy=True),
        about="standard deviation between the chains of a prompt; GRPO learns from it",
    )


def _rollout(c: Curves) -> Iterable[Chart | None]:
    steps = c.cells.trained.by_step()
    yield _shares_of(
        "Why chains ended", c.cells.trained, lambda cell: (cell.stop or "unknown",), "share of the step's chains"
    )
    turns = {"turns": "turns", "tool calls": "calls", "refused calls": "errors"}
    yield chart(
        "Turns and tool calls",
        [_per_chain(label, name, steps) for label, name in turns.items()],
        about="mean of a chain",
    )
    yield chart(
        "Tokens",
        [
            _per_chain("sampled", "tokens", steps),
            *_lines({"with observations": c.metrics.get("response_length/mean")}, noisy=True),
        ],
        about="mean of a chain",
    )
    lost = {
        "lost": c.metrics.get("chains/lost_share"),
        "at the length limit": c.metrics.get("response_length/clip_ratio"),
    }
    yield chart(
        "Lost or cut chains", _lines(lost), unit="%", about="lost to faults and not trained on; cut at the length limit"
    )


def _tools(c: Curves) -> Iterable[Chart | None]:
    yield _shares_of("Tool use", c.cells.trained, lambda cell: cell.tools, "share of the chains that call the tool")
    idle = c.metrics.get("wait/policy_idle")
    because = c.metrics.under("wait/because/")
    about = "share of the rollout in which nothing was generated, and the tool that was waited for"
    yield chart(
        "Who was waited for",
        _lines({"all": idle, **_largest(_used(because), _MOST_LINES - 1)}, noisy=True),
        unit="%",
        about=about,
    )
    seconds, calls = c.metrics.under("wait/seconds/"), c.metrics.under("wait/calls/")
    each = {tool: _divided(points, calls.get(tool, ())) for tool, points in _largest(_used(seconds)).items()}
    yield chart("Seconds of a call", _lines(each, noisy=True), unit="s", about="mean over the calls of a step")
    yield chart(
        "Tool cache",
        _lines({"hits": c.metrics.get("cache/hit_rate")}, noisy=True),
        (0, 1),
        unit="%",
        about="share of calls that the cache answered",
    )


def _time(c: Curves) -> Iterable[Chart | None]:
    whole, parts = c.metrics.get("timing_s/step"), c.metrics.under("timing_s/")
    known = {words: parts[name] for name, words in PHASES.items() if name in parts}
    yield chart(
        "Seconds of a step",
        _lines({"whole step": whole, **_largest(known, _MOST_LINES - 1)}),
        unit="s",
        about="by phase",
    )
    yield chart(
        "Throughput",
        _lines({"tokens/s": c.metrics.get("perf/throughput")}, noisy=True),
        about="tokens a second and device",
    )
    memory = {"device": "max_memory_allocated_gb", "main memory": "cpu_memory_used_gb"}
    yield chart("Memory", _lines({label: c.metrics.get(f"perf/{name}") for label, name in memory.items()}), about="GB")


def _health(c: Curves) -> Iterable[Chart | None]:
    health = c.metrics.under("health/")
    shares = {name.replace("_", " "): points for name, points in health.items() if not name.endswith("_calls")}
    yield chart(
        "Health", _lines(shares, noisy=True), unit="%", about="shares of edits, calls and chains; see all metrics below"
    )
    m = c.metrics
    yield chart(
        "Audit",
        _lines({"reward’s evaluator": m.get("audit/reward"), "second evaluator": m.get("audit/mean")}, noisy=True),
        about="score of both, 0 to 1; the second is no part of the reward",
    )
    yield chart(
        "Audit gap",
        _lines({"gap": m.get("audit/gap"), "rank correlation": m.get("audit/rank_correlation")}, noisy=True),
        about="a growing gap: the policy may be fooling its judge",
    )


def _optimiser(c: Curves) -> Iterable[Chart | None]:
    m = c.metrics
    charts: tuple[tuple[str, Mapping[str, str], Unit], ...] = (
        ("Entropy", {"entropy": "actor/entropy"}, ""),
        ("Gradient norm", {"policy": "actor/grad_norm", "critic": "critic/grad_norm"}, ""),
        ("Learning rate", {"policy": "actor/lr", "critic": "critic/lr"}, ""),
        (
            "Distance of the policy",
            {"from the one that sampled": "actor/ppo_kl", "from the reference": "actor/kl_loss"},
            "",
        ),
        ("Clipped updates", {"above": "actor/pg_clipfrac", "below": "actor/pg_clipfrac_lower"}, "%"),
        ("Loss", {"policy gradient": "actor/pg_loss", "critic": "critic/vf_loss"}, ""),
        (
            "Rollout against trainer",
            {"largest": "training/rollout_probs_diff_max", "mean": "training/rollout_probs_diff_mean"},
            "",
        ),
        ("Variance that the critic explains", {"": "critic/vf_explained_var"}, ""),
    )
    for title, names, unit in charts:
        known = {label: m.get(name) for label, name in names.items() if m.get(name)}
        about = meaning_of(next(iter(names.values())))[1]
        yield chart(title, _lines(known, noisy=title not in ("Learning rate",)), unit=unit, about=about)


def _lines(series: Mapping[str, Points], *, noisy: bool = False) -> list[Line]:
    """Return a line for each series that has points, the most telling ones where there are too many."""
    known = {name: points for name, points in series.items() if points}
    return [Line(name, points, noisy=noisy) for name, points in _largest(known).items()]


def _largest(series: Mapping[str, Points], most: int = _MOST_LINES) -> dict[str, Points]:
    """Return the series with the largest mean sizes, in the order that they came in."""
    if len(series) <= most:
        return dict(series)
    size = {name: sum(abs(y) for _, y in points) / max(1, len(points)) for name, points in series.items()}
    kept = set(sorted(series, key=lambda name: -size[name])[:most])
    return {name: points for name, points in series.items() if name in kept}


def _used(series: Mapping[str, Points]) -> dict[str, Points]:
    """Return the series that are not 0 all the time."""
    return {name: points for name, points in series.items() if any(y for _, y in points)}


def _divided(points: Points, by: Points) -> Points:
    count = dict(by)
    return tuple((step, value / count[step]) for step, value in points if count.get(step))


def _means(by_step: Mapping[int, Mean]) -> Line:
    points = [(float(step), mean.mean) for step, mean in by_step.items()]
    # One sample has no interval.
    band = [(mean.low, mean.high) if mean.bounded else (mean.mean, mean.mean) for mean in by_step.values()]
    return Line("all tasks", points, band)


def _by_type(title: str, cells: Cells, about: str, *, noisy: bool = False) -> Chart | None:
    types = cells.types
    lines = []
    for name in types[:_MOST_TYPES]:
        points = [(float(step), sums.success) for step, sums in cells.of_type(name).by_step().items()]
        lines.append(Line(name, [(x, y) for x, y in points if y is not None], noisy=noisy))
    more = f"; the {_MOST_TYPES} most frequent of {len(types)} types" if len(types) > _MOST_TYPES else ""
    return chart(title, lines, (0, 1), unit="%", about=about + more)


def _per_chain(label: str, name: str, steps: Mapping[int, Sums]) -> Line:
    values = [(float(step), sums.a_chain(name)) for step, sums in steps.items()]
    return Line(label, [(x, y) for x, y in values if y is not None], noisy=True)


def _shares_of(title: str, cells: Cells, names_of: Callable[..., Sequence[str]], about: str) -> Chart | None:
    """Return the share of each step's chains by the names that their cells have."""
    whole: dict[int, int] = {}
    found: dict[str, dict[int, int]] = {}
    for cell in cells.cells:
        if cell.step is None:
            continue
        whole[cell.step] = whole.get(cell.step, 0) + cell.chains
        for name in names_of(cell):
            counts = found.setdefault(name, {})
            counts[cell.step] = counts.get(cell.step, 0) + cell.chains
    # Steps without are steps of 0 %.
    series = {
        name.replace("_", " "): tuple((float(step), counts.get(step, 0) / whole[step]) for step in sorted(whole))
        for name, counts in sorted(found.items(), key=lambda entry: -sum(entry[1].values()))[:_MOST_LINES]
    }
    return chart(title, _lines(series, noisy=True), (0, 1), unit="%", about=about)
