"""The statistics of a calibration. Each formula names its source; intervals are 95 %.

Pairs of one task are not independent of each other. So an interval over several kinds of pairs counts each task once:
it is Wilson's (1927) for the mean share, with the number of tasks as the number of trials.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentfly.evaluation.calibration.cases import Item, Material, Pair
from agentfly.evaluation.calibration.measure import Measurement
from agentfly.evaluators.bootstrap import TIE, Estimate, estimate, preference_credit, spearman, wilson

Floats = NDArray[np.float64]

THROUGH = 0.5  # share of the right edit's score from which on an attack is through
LET_THROUGH = 0.1  # share of tasks from which on an evaluator lets an attack through
_BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_FEWEST = 4  # values of a rank correlation


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs that an evaluator orders as they are known to be; equal scores count one half.

    Attributes:
        share: with its interval; None where there is no pair.
        pairs, groups: pairs that count, and the tasks that they are of.
        ties: pairs in which people saw no difference, which do not count.
        missing: pairs without a score on one side or both, which do not count either.
    """

    share: Estimate | None
    pairs: int
    groups: int
    ties: int
    missing: int


@dataclass(frozen=True)
class Resistance:
    """The scores of one attack.

    Attributes:
        score: mean, 0 to 100; None where nothing was scored.
        through: share of tasks on which it is through: it scores above 0, and `THROUGH` of the right edit or more.
        tasks: that were scored.
        worst, highest: id of the item with the highest score, and that score.
    """

    score: Estimate | None
    through: Estimate | None
    tasks: int
    worst: str | None
    highest: float | None

    @property
    def let_through(self) -> bool:
        """True if the attack is through on `LET_THROUGH` of the tasks or more."""
        return self.through is not None and self.through.mean >= LET_THROUGH


@dataclass(frozen=True)
class Bin:
    """Pairs whose predicted share of right orders lies in a range."""

    low: float
    high: float
    predicted: float
    right: Estimate
    pairs: int


@dataclass(frozen=True)
class Reliability:
    """How well the difference of two scores tells the chance that their order is right.

        predicted = 1 / (1 + exp(-|a - b| / s))          Bradley and Terry (1952), s by maximum likelihood
        ECE       = sum over bins of n_b / n * |right_b - predicted_b|        Guo et al. (2017)

    Attributes:
        scale: s in points: a difference of s is right in 73 %; infinite where scores tell nothing.
        error: the expected calibration error, 0 to 1.
        bins: those that hold pairs.
    """

    scale: float
    error: float
    bins: Sequence[Bin]


def accuracy(found: Measurement, pairs: Iterable[Pair]) -> Accuracy:
    """Return the accuracy of an evaluator on some pairs.

    Args:
        found: its scores.
        pairs: of any kinds.
    """
    credits, ties, missing = defaultdict[str, list[float]](list), 0, 0
    for pair in pairs:
        difference = found.difference(pair)
        if difference is None:
            missing += 1
        elif pair.preferred == 0.5:
            ties += 1
        else:
            credits[pair.group].append(preference_credit(pair.preferred, difference))
    flat = [credit for group in credits.values() for credit in group]
    share = float(np.mean(flat)) if flat else 0.0
    interval = wilson(share * len(credits), len(credits)) if flat else None
    return Accuracy(interval, len(flat), len(credits), ties, missing)


def comparison_accuracy(found: Measurement, pairs: Iterable[Pair]) -> Estimate | None:
    """Return the share of comparisons of several results in which all pairs are ordered right (Wilson's interval).

    This is how EditReward-Bench counts its comparisons of three and four. None where there are none.
    """
    right: dict[str, bool] = {}
    for pair in pairs:
        difference = found.difference(pair)
        if pair.comparison and difference is not None:
            ordered = preference_credit(pair.preferred, difference) == 1.0
            right[pair.comparison] = right.get(pair.comparison, True) and ordered
    return wilson(sum(right.values()), len(right)) if right else None


def by_kind(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Return pairs by the comparison that they make, in the order in which the kinds come."""
    kinds: dict[str, list[Pair]] = {}
    for pair in pairs:
        kinds.setdefault(pair.kind, []).append(pair)
    return kinds


def resistance(found: Measurement, items: Sequence[Item]) -> dict[str, Resistance]:
    """Return the scores of the attacks by name.

    Args:
        found: the scores of an evaluator.
        items: all of the material.
    """
    rights = {item.group: found.value(item.id) for item in items if item.kind == "graded" and item.name == "right"}
    attacks: dict[str, list[Item]] = {}
    for item in items:
        if item.kind == "attack":
            attacks.setdefault(item.name, []).append(item)
    made = {}
    for name, ones in attacks.items():
        scored = {item: value for item in ones if (value := found.value(item.id)) is not None}
        through = [_is_through(value, rights.get(item.group)) for item, value in scored.items()]
        worst = max(ones, key=lambda item: found.value(item.id) or 0.0)
        made[name] = Resistance(
            estimate(scored.values()) if scored else None,
            wilson(sum(through), len(through)) if through else None,
            len(scored),
            worst.id if scored else None,
            found.value(worst.id),
        )
    return made


def _is_through(value: float, right: float | None) -> bool:
    # Without a score of the right edit, a score is compared with the scale itself.
    return value > TIE and value >= THROUGH * (100.0 if right is None else right)


def reliability(found: Measurement, pairs: Iterable[Pair]) -> Reliability | None:
    """Return how well differences of scores tell how sure an order is; None where there are no pairs."""
    gaps, rights = [], []
    for pair in pairs:
        difference = found.difference(pair)
        if difference is not None and pair.preferred != 0.5:
            gaps.append(abs(difference))
            rights.append(preference_credit(pair.preferred, difference))
    if not gaps:
        return None
    differences, right = np.array(gaps), np.array(rights)
    scale = _likeliest_scale(differences, right)
    predicted = 1.0 / (1.0 + np.exp(-differences / scale))
    bins, error = [], 0.0
    for low, high in itertools.pairwise(_BINS):
        within = (predicted >= low) & ((predicted < high) | ((high == 1.0) & (predicted <= high)))
        if within.any():
            count = int(within.sum())
            share = wilson(float(right[within].sum()), count)
            bins.append(Bin(low, high, float(predicted[within].mean()), share, count))
            error += count / len(gaps) * abs(share.mean - bins[-1].predicted)
    return Reliability(scale, error, bins)


def _likeliest_scale(gaps: Floats, right: Floats) -> float:
    """Return the scale of the greatest likelihood on a grid from 0.1 to 10,000 points, in steps of 2 %.

    The likelihood of half a right order is the mean of both logarithms. Where the wrong orders outweigh, no scale
    helps, and the last one stands for "tells nothing".
    """
    scales = 0.1 * 1.02 ** np.arange(582)
    steps = gaps[None, :] / scales[:, None]
    losses = right * np.logaddexp(0.0, -steps) + (1.0 - right) * np.logaddexp(0.0, steps)
    best = int(np.argmin(losses.sum(axis=1)))
    return float(scales[best]) if best < len(scales) - 1 else math.inf


@dataclass(frozen=True)
class Retest:
    """The differences between scorings of the same samples.

    Attributes:
        spread: standard deviation of a score within a sample, in points: the root of the mean variance (the
            within-subject standard deviation of Bland and Altman, 1996). None where no sample was scored twice.
        largest: largest difference between two scorings of one sample, in points.
        flipped: share of pairs whose order was another one at the second scoring.
        position: accuracy with the better one scored first less that with the better one scored last, by task.
        samples: that were scored more than once.
    """

    spread: float | None
    largest: float | None
    flipped: Estimate | None
    position: Estimate | None
    samples: int


def retest(found: Measurement, material: Material) -> Retest | None:
    """Return the differences between scorings of the same samples; None where each was scored once."""
    values = defaultdict[str, list[float]](list)
    for scores in (found.first, *found.again):
        for name, measured in scores.items():
            if measured.value is not None:
                values[name].append(measured.value)
    several = [scores for scores in values.values() if len(scores) > 1]
    if found.rounds < 2:
        return None
    flips: list[bool] = []
    for pair in material.pairs:
        one, two = found.difference(pair), found.difference(pair, 1)
        if one is not None and two is not None and pair.preferred != 0.5:
            flips.append(_sign(one) != _sign(two))
    return Retest(
        spread=math.sqrt(float(np.mean([np.var(scores, ddof=1) for scores in several]))) if several else None,
        largest=max((max(scores) - min(scores) for scores in several), default=None),
        flipped=wilson(sum(flips), len(flips)) if flips else None,
        position=_position(found, material),
        samples=len(several),
    )


def _position(found: Measurement, material: Material) -> Estimate | None:
    """Return the gain in accuracy from scoring the better one of a pair first: the second round swaps all pairs."""
    places = {item.id: place for place, item in enumerate(material.items)}
    gains = defaultdict[str, list[float]](list)
    for pair in material.pairs:
        one, two = found.difference(pair), found.difference(pair, 1)
        if one is not None and two is not None and pair.preferred != 0.5:
            straight, swapped = (preference_credit(pair.preferred, difference) for difference in (one, two))
            # Those that are scored alone come in the order of the material.
            first = True if found.compared else places[pair.first] < places[pair.second]
            better_first = first == (pair.preferred == 1.0)
            gains[pair.group].append(straight - swapped if better_first else swapped - straight)
    return estimate(float(np.mean(group)) for group in gains.values()) if gains else None


def _sign(difference: float) -> int:
    return 0 if abs(difference) < TIE else (1 if difference > 0 else -1)


@dataclass(frozen=True)
class Worth:
    """The scores of results whose worth is known: mean score by worth, and the rank correlation of both."""

    scores: Sequence[tuple[float, Estimate, int]]
    correlation: Estimate | None


def by_worth(found: Measurement, items: Iterable[Item]) -> Worth | None:
    """Return the scores of the items of known worth, in ten steps of it; None where there are none."""
    known = [
        (item.worth, value) for item in items if item.worth is not None and (value := found.value(item.id)) is not None
    ]
    if not known:
        return None
    steps = defaultdict[float, list[float]](list)
    for worth, value in known:
        steps[round(worth, 1)].append(value)
    rank = spearman([worth for worth, _ in known], [value for _, value in known]) if len(known) >= _FEWEST else None
    return Worth([(worth, estimate(steps[worth]), len(steps[worth])) for worth in sorted(steps)], rank)


@dataclass(frozen=True)
class AgreementOfTwo:
    """The agreement of two evaluators: rank correlation of their scores, and share of pairs that both order alike."""

    one: str
    other: str
    correlation: Estimate | None
    same: Estimate | None
    samples: int


def agreement(one: Measurement, other: Measurement, material: Material) -> AgreementOfTwo:
    """Return the agreement of two evaluators on the same material.

    Args:
        one, other: their scores.
        material: that both scored.
    """
    both = [
        (a, b)
        for item in material.items
        if (a := one.value(item.id)) is not None and (b := other.value(item.id)) is not None
    ]
    rank = spearman([a for a, _ in both], [b for _, b in both]) if len(both) >= _FEWEST else None
    differences = [(one.difference(pair), other.difference(pair)) for pair in material.pairs]
    same = [_sign(a) == _sign(b) for a, b in differences if a is not None and b is not None]
    return AgreementOfTwo(one.label, other.label, rank, wilson(sum(same), len(same)) if same else None, len(both))
