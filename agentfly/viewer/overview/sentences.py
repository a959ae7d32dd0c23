"""Did it learn, in sentences that claim nothing where an interval holds zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentfly.viewer.charts import number_text
from agentfly.viewer.overview.figures import TypeRow
from agentfly.viewer.overview.gains import Gain, Mean


@dataclass(frozen=True)
class Sentence:
    """A sentence about the run, and the class of its colour: "good", "bad" or ""."""

    words: str
    level: str = ""


def of_gain(gain: Gain) -> Sentence:
    """Return a gain in a sentence. It claims nothing where the interval holds zero."""
    change, level = gain_words(gain.gain)
    ends = ((gain.before, gain.first), (gain.after, gain.last))
    values = (f"{number_text(mean.mean)} {gain.place} {where}" for mean, where in ends)
    return Sentence(f"The {gain.what} {change}: {', '.join(values)}.", level)


def gain_words(gain: Mean) -> tuple[str, str]:
    """Return what a difference says, such as "rose by 0.2 ± 0.1", and the class of its colour."""
    if not gain.bounded:
        return "cannot be compared yet", ""
    reach = number_text(gain.high - gain.mean)
    level = {"rose": "good", "fell": "bad"}.get(gain.verdict, "")
    if not level:
        return f"{gain.verdict} ({number_text(gain.mean)} ± {reach})", ""
    return f"{gain.verdict} by {number_text(abs(gain.mean))} ± {reach}", level


def of_row(row: TypeRow) -> Sentence:
    gain, level = row.gain or ("", "")
    verb = {"good": "rose", "bad": "fell"}.get(level, "did not clearly change")
    before, after = (shown.text if shown else "–" for shown in (row.before, row.after))
    return Sentence(
        f"The held-out score {verb}: {before} for the warm start, {after} for the trained policy ({gain}).", level
    )


def of_types(gains: Mapping[str | None, Gain]) -> list[Sentence]:
    """Return a sentence about the task types that got clearly better or worse."""
    named = {name: gain.gain for name, gain in gains.items() if name is not None and gain.gain.bounded}
    if len(named) < 2:
        return []
    better = [name for name, gain in named.items() if gain.verdict == "rose"]
    worse = [name for name, gain in named.items() if gain.verdict == "fell"]
    words = [f"clearly {word} at {_listed(names)}" for word, names in (("better", better), ("worse", worse)) if names]
    rest = [name for name in named if name not in (*better, *worse)]
    words += [f"no clear change at {_listed(rest)}"] if rest else []
    text = "; ".join(words)
    return [Sentence(f"{text[:1].upper()}{text[1:]}.", "bad" if worse else "")]


def of_score(row: TypeRow) -> Sentence:
    """Return the score of an evaluation in a sentence."""
    interval = f" (95 % interval {row.after.interval})" if row.after and row.after.interval else ""
    success = f"; {row.success[1]} succeed" if row.success[1] else ""
    return Sentence(
        f"The mean score is {row.after.text if row.after else '–'} of 100{interval} on {row.count} tasks{success}."
    )


def _listed(names: list[str]) -> str:
    """Return the names of task types in a sentence, the first of many."""
    shown = [name[:40] or "tasks without a type" for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
