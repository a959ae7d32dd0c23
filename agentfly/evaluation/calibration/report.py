"""The report of a calibration as JSON: its figures by evaluator, and the reasons not to trust one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from agentfly import __version__
from agentfly.errors import short_paths
from agentfly.evaluation.calibration.cases import Material, Pair
from agentfly.evaluation.calibration.measure import Measured, Measurement
from agentfly.evaluation.calibration.record import Record, fingerprint
from agentfly.evaluation.calibration.statistics import (
    Accuracy,
    Resistance,
    accuracy,
    agreement,
    by_kind,
    by_worth,
    comparison_accuracy,
    reliability,
    resistance,
    retest,
)
from agentfly.evaluators.bootstrap import Estimate, estimate
from agentfly.provenance import current_environment
from agentfly.redaction import public_settings

FORMAT = "agentfly.calibration_report/1"
BUILT_IN = ("stickers", "retouch")
_MOST_REASONS = 5
_LONGEST_REASON = 200  # characters
_FEWEST = 4  # tasks; with fewer, even one who is always right cannot be told from chance (Wilson)
_NOT_SCORED = 0.05  # share of samples without a score that is a reason for doubt

Figures = dict[str, Any]


def make_report(
    specs: Mapping[str, Mapping[str, object]],
    found: Sequence[Measurement],
    material: Material,
    about: Mapping[str, object],
) -> Figures:
    """Return the content of `calibration.json`.

    Args:
        specs: of the evaluators by label.
        found: a measurement of each, in that order.
        material: that they were measured on.
        about: "tasks", "seed", "repeats" and "data" of the calibration.
    """
    evaluators = {one.label: {**_figures(specs[one.label], one, material)} for one in found}
    pairs = [agreement(a, b, material) for place, a in enumerate(found) for b in found[place + 1 :]]
    return {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "environment": current_environment(),
        **about,
        "samples": len(material.items),
        "pairs": len(material.pairs),
        "evaluators": evaluators,
        "agreement": [
            {
                "one": one.one,
                "other": one.other,
                "samples": one.samples,
                "rank_correlation": _interval(one.correlation),
                "same_order": _interval(one.same),
            }
            for one in pairs
        ],
    }


def record_of(figures: Figures, tasks: int) -> Record:
    """Return the record of an evaluator.

    Args:
        figures: of one evaluator in the report.
        tasks: of the built-in worlds.
    """
    return Record(
        fingerprint=figures["fingerprint"],
        evaluator=figures["evaluator"],
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        accuracy=figures["accuracy"]["share"],
        let_through=figures["let_through"],
        cautions=figures["cautions"],
        tasks=tasks,
    )


def _figures(spec: Mapping[str, object], found: Measurement, material: Material) -> Figures:
    sources: dict[str, list[Pair]] = {}
    for pair in material.pairs:
        sources.setdefault(pair.source, []).append(pair)
    attacks = resistance(found, material.items)
    kinds = {kind: accuracy(found, pairs) for kind, pairs in by_kind(material.pairs).items()}
    comparisons = {name: comparison_accuracy(found, pairs) for name, pairs in sources.items()}
    people = [item for item in material.items if item.kind == "people"]
    figures = {
        "evaluator": public_settings(spec),
        "fingerprint": fingerprint(spec),
        "accuracy": _accuracy(accuracy(found, material.pairs)),
        "by_source": {name: _accuracy(accuracy(found, pairs)) for name, pairs in sources.items()},
        "by_kind": {kind: _accuracy(share) for kind, share in kinds.items()},
        "comparisons": {name: _interval(share) for name, share in comparisons.items() if share is not None},
        "attacks": {name: _attack(one) for name, one in attacks.items()},
        "let_through": [name for name, one in attacks.items() if one.let_through],
        "calibration": _reliability(found, material),
        "worth": _worth(found, material, people=False),
        "people": _worth(found, material, people=True) if people else None,
        "retest": _retest(found, material),
        **_work(found),
    }
    return {**figures, "cautions": _cautions(figures)}


def _work(found: Measurement) -> Figures:
    """Return seconds, cost and tokens of a sample, and the samples without a score."""
    scorings = [one for scores in (found.first, *found.again) for one in scores.values()]
    missing = [one for one in found.first.values() if one.value is None]
    reasons = Counter(short_paths(one.reason)[:_LONGEST_REASON] for one in missing)

    def each(values: Sequence[float]) -> dict[str, float] | None:
        # A judge's sample costs a fraction of a cent, and a measured one a millisecond.
        return {key: round(value, 6) for key, value in vars(estimate(values)).items()} if values else None

    paid = [one for one in scorings if one.tokens]
    return {
        "seconds": each([one.seconds for one in scorings]),
        "samples_a_second": round(len(scorings) / found.seconds, 3) if found.seconds else None,
        "in_flight": found.in_flight,
        "cost": each([one.cost for one in paid]) if any(one.cost for one in paid) else None,
        "tokens": round(float(np.mean([one.tokens for one in paid])), 1) if paid else None,
        "scored": len(found.first) - len(missing),
        "not_scored": len(missing),
        "reasons": dict(reasons.most_common(_MOST_REASONS)),
    }


def _cautions(figures: Figures) -> list[str]:
    """Return the reasons not to trust an evaluator, a sentence each."""
    cautions = [
        f"the attack {name!r} is through on {100 * figures['attacks'][name]['through']['mean']:.0f} % of the tasks"
        for name in figures["let_through"]
    ]
    few = [kind for kind, one in figures["by_kind"].items() if one["groups"] < _FEWEST]
    if few:
        cautions.append(f"too few tasks to tell anything from chance on {', '.join(map(repr, few))}: give more --tasks")
    for kind, one in figures["by_kind"].items():
        share = one["share"]
        if share is not None and kind not in few and share["low"] <= 0.5:
            cautions.append(
                f"on {kind!r} it cannot be told from chance: right in {100 * share['mean']:.0f} % "
                f"({100 * share['low']:.0f} to {100 * share['high']:.0f})"
            )
    number = figures["scored"] + figures["not_scored"]
    if number and figures["not_scored"] > _NOT_SCORED * number:
        why = next(iter(figures["reasons"]), "no reason was given")
        cautions.append(f"{figures['not_scored']} of {number} samples were not scored: {why}")
    return cautions


def _accuracy(found: Accuracy) -> Figures:
    counts = {"pairs": found.pairs, "groups": found.groups, "ties": found.ties, "missing": found.missing}
    return {"share": _interval(found.share), **counts}


def _attack(found: Resistance) -> Figures:
    return {
        "score": _interval(found.score),
        "through": _interval(found.through),
        "let_through": found.let_through,
        "tasks": found.tasks,
        "worst": found.worst,
        "highest": found.highest,
    }


def _reliability(found: Measurement, material: Material) -> Figures | None:
    curve = reliability(found, material.pairs)
    if curve is None:
        return None
    bins = [
        {
            "low": b.low,
            "high": b.high,
            "predicted": round(b.predicted, 4),
            "right": _interval(b.right),
            "pairs": b.pairs,
        }
        for b in curve.bins
    ]
    scale = round(curve.scale, 3) if np.isfinite(curve.scale) else None
    return {"scale": scale, "error": round(curve.error, 4), "bins": bins}


def _worth(found: Measurement, material: Material, *, people: bool) -> Figures | None:
    curve = by_worth(found, (item for item in material.items if (item.kind == "people") == people))
    if curve is None:
        return None
    steps = [{"worth": worth, "score": _interval(score), "samples": count} for worth, score, count in curve.scores]
    return {"steps": steps, "rank_correlation": _interval(curve.correlation)}


def _retest(found: Measurement, material: Material) -> Figures | None:
    again = retest(found, material)
    if again is None:
        return None
    return {
        "samples": again.samples,
        "spread": None if again.spread is None else round(again.spread, 3),
        "largest": None if again.largest is None else round(again.largest, 3),
        "flipped": _interval(again.flipped),
        "position": _interval(again.position),
    }


def _interval(found: Estimate | None) -> dict[str, float] | None:
    return None if found is None else found.to_dict()


def scores_of(found: Sequence[Measurement], material: Material) -> list[Figures]:
    """Return a line for each sample with the scores of all evaluators, for `scores.jsonl`."""

    def value(measured: Measured | None) -> float | str | None:
        if measured is None:
            return None
        return measured.reason if measured.value is None else round(measured.value, 4)

    return [
        {
            "id": item.id,
            "kind": item.kind,
            "name": item.name,
            "group": item.group,
            "worth": item.worth,
            "scores": {one.label: value(one.first.get(item.id)) for one in found},
        }
        for item in material.items
    ]
