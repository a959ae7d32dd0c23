"""Evaluators from configuration: a name, or a mapping with the name and its settings; and several in one.

make_evaluator("reference")
make_evaluator({"evaluator": "judge", "model": "gpt-5", "scheme": "viescore", "passes": 2})
make_evaluator({
    "evaluator": "composite",
    "how": "minimum",
    "parts": {"judge": {"evaluator": "judge", "model": "gpt-5"}, "kept": "structural"},
})
"""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeGuard

from agentfly.aio import gather_or_cancel
from agentfly.errors import ConfigError, EvaluatorError, unknown_name
from agentfly.evaluators.base import (
    EditSample,
    Evaluator,
    GroupEvaluator,
    NotScored,
    Score,
    can_sleep,
    check_ready,
    check_sample,
    close_evaluator,
    is_relative,
    objections,
    score_or_reason,
    sleep_evaluator,
    wake_evaluator,
)
from agentfly.evaluators.guarded import GuardedEvaluator, GuardSettings

How = Literal["product", "minimum", "weighted", "first"]
HOWS: tuple[How, ...] = ("product", "minimum", "weighted", "first")
# Evaluators that ask a model for its opinion.
JUDGES = frozenset({"judge", "listwise", "questions"})
# Evaluators that load a model into the process that scores.
LEARNED = frozenset({"editscore", "editreward"})


class CompositeEvaluator:
    """Combines named parts. With v_i the value of part i over 100 and w_i its weight:

        product    100 * prod v_i^w_i
        minimum    100 * min v_i
        weighted   100 * sum w_i v_i / sum w_i
        first      100 * v_i of the first part that can score the sample

    With product and minimum nothing can be gained from one part alone. With a weighted mean it can, so that is for
    tables more than for rewards. If a part gives no score, the whole has none, and the reason names the part; with
    "first" the next part is asked, and the whole has none if no part has one.

    Where a part must see the results of a task together, the others score them one by one, and the parts of each
    result are combined.

    Args:
        parts: evaluators by name.
        how: "product", "minimum", "weighted" or "first".
        weights: of the parts, 1 where it is left out; not for "minimum" and "first".

    Raises:
        ConfigError: there are no parts, `how` is unknown, or the weights do not fit.
    """

    def __init__(
        self, parts: Mapping[str, Evaluator], how: How = "product", weights: Mapping[str, float] | None = None
    ) -> None:
        weights = dict(weights or {})
        if not parts:
            raise ConfigError("a composite evaluator needs at least one part")
        if how not in HOWS:
            raise ConfigError(unknown_name("way to combine", how, HOWS))
        if how in ("minimum", "first") and weights:
            raise ConfigError(f"how={how!r} has no weights: leave them out, or use how='product'")
        if how == "first" and any(map(is_relative, parts.values())):
            raise ConfigError(
                "how='first' cannot have a part that ranks: results would be scored by different measures"
            )
        for name, weight in weights.items():
            if name not in parts:
                raise ConfigError(unknown_name("part in the weights", name, parts))
            if not (math.isfinite(weight) and weight > 0):
                raise ConfigError(f"the weight of {name!r} is {weight}: give a number above 0, or leave the part out")
        self.parts = dict(parts)
        self.how = how
        self.weights = {name: weights.get(name, 1.0) for name in parts}

    async def evaluate(self, sample: EditSample) -> Score:
        """Score by all parts at once; aspects are the parts (0 to 1) and, as "part/aspect", theirs.

        Raises:
            EvaluatorError: a part gives no score; with "first", no part does.
        """
        if self.how == "first":
            reasons = []
            for name, part in self.parts.items():
                score = await score_or_reason(part, sample)
                if isinstance(score, Score):
                    return self._combine({name: score})
                reasons.append(f"part {name!r}: {score.reason}")
            raise EvaluatorError("; ".join(reasons))
        tasks = {name: asyncio.ensure_future(part.evaluate(sample)) for name, part in self.parts.items()}
        try:
            scores: dict[str, Score] = {}
            for name, task in tasks.items():
                try:
                    scores[name] = await task
                except EvaluatorError as fault:
                    # The type is kept, because a `PassingFault` is tried again.
                    raise type(fault)(f"part {name!r}: {fault}") from fault
        finally:
            for task in tasks.values():
                task.cancel()
            # asyncio would log the exception of a part that fails after another one as never retrieved.
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return self._combine(scores)

    @property
    def relative(self) -> bool:
        """See `GroupEvaluator.relative`."""
        return any(map(is_relative, self.parts.values()))

    async def evaluate_group(self, samples: Sequence[EditSample]) -> list[Score | NotScored]:
        """Score the results of one task by all parts; see `GroupEvaluator.evaluate_group`."""
        columns = await gather_or_cancel(_scores_of(part, samples) for part in self.parts.values())
        found: list[Score | NotScored] = []
        for row in zip(*columns, strict=True):
            scores = dict(zip(self.parts, row, strict=True))
            missing = [
                f"part {name!r}: {score.reason}" for name, score in scores.items() if isinstance(score, NotScored)
            ]
            known = {name: score for name, score in scores.items() if isinstance(score, Score)}
            found.append(NotScored("; ".join(missing)) if missing else self._combine(known))
        return found

    async def check_ready(self) -> None:
        """Check all parts; see `AsksOthers.check_ready`. The message names every part that is not ready."""
        if faults := await objections({f"part {name!r}": check_ready(part) for name, part in self.parts.items()}):
            raise EvaluatorError("; ".join(faults))

    async def check_sample(self, sample: EditSample) -> None:
        """Check all parts; see `NeedsOfSamples.check_sample`. The message names every part that lacks something."""
        checks = {f"part {name!r}": check_sample(part, sample) for name, part in self.parts.items()}
        faults = await objections(checks)
        if faults and (self.how != "first" or len(faults) == len(self.parts)):
            raise EvaluatorError("; ".join(faults))

    @property
    def can_sleep(self) -> bool:
        """See `MaySleep`."""
        return any(map(can_sleep, self.parts.values()))

    async def sleep(self) -> bool:
        """Have all parts free their devices; see `Sleeps`."""
        return any([await sleep_evaluator(part) for part in self.parts.values()])

    async def wake(self) -> bool:
        """Wake all parts; see `Sleeps`."""
        return any([await wake_evaluator(part) for part in self.parts.values()])

    async def close(self) -> None:
        """Close all parts."""
        for part in self.parts.values():
            await close_evaluator(part)

    def _combine(self, scores: Mapping[str, Score]) -> Score:
        shares = {name: score.value / 100.0 for name, score in scores.items()}
        aspects = dict(shares)
        for name, score in scores.items():
            aspects.update({f"{name}/{aspect}": value for aspect, value in score.aspects.items()})
        weakest = min(shares, key=lambda name: shares[name])
        feedback = f"Weakest is {weakest} ({scores[weakest].value:.0f}): {scores[weakest].feedback}".rstrip(": ")
        if self.how in ("minimum", "first"):  # the first one comes alone
            value = min(shares.values())
        elif self.how == "product":
            value = math.prod(share ** self.weights[name] for name, share in shares.items())
        else:
            value = sum(self.weights[name] * share for name, share in shares.items()) / sum(self.weights.values())
        return Score(100.0 * value, feedback, aspects, relative=any(score.relative for score in scores.values()))


async def _scores_of(part: Evaluator, samples: Sequence[EditSample]) -> list[Score | NotScored]:
    """Return the scores of a part, together where it must see the samples together."""
    if isinstance(part, GroupEvaluator) and part.relative:
        return await part.evaluate_group(samples)
    return await gather_or_cancel(score_or_reason(part, sample) for sample in samples)


Spec = str | Mapping[str, Any] | Evaluator
Options = dict[str, Any]
Maker = Callable[[Options], Evaluator]


def make_evaluator(spec: Spec) -> Evaluator:
    """Return the evaluator that a spec names. Models are loaded at their first sample, not here.

    A mapping may have `guard`, a mapping of `GuardSettings`: then the evaluator is a `GuardedEvaluator`.

    Args:
        spec: an evaluator as it is; "reference", "structural", "judge", "listwise", "questions", "detector",
            "similarity", "editscore", "editreward", "http" or "composite"; a mapping with the name under `evaluator`,
            and the fields of its settings; or "module:name" of an evaluator of your own, or of a function without
            arguments that returns one.

    Raises:
        ConfigError: the name or a setting is unknown, or the module has no such evaluator.
    """
    if not isinstance(spec, (str, Mapping)):
        return spec
    options: Options = {"evaluator": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("evaluator", None)
    if not isinstance(name, str):
        raise ConfigError('an evaluator is named under "evaluator", such as {"evaluator": "reference"}')
    guard = options.pop("guard", None)
    if ":" not in name and name not in _MAKERS:
        raise ConfigError(unknown_name("evaluator", name, _MAKERS))
    make = _MAKERS[name] if name in _MAKERS else _imported(name)
    try:
        made = make(options)
        return made if guard is None else GuardedEvaluator(made, GuardSettings(**guard))
    except ConfigError as fault:
        raise type(fault)(f"evaluator {name!r}: {fault}") from fault
    except TypeError as fault:
        raise ConfigError(f"evaluator {name!r}: {fault}") from fault


def specs_in(spec: Spec) -> Iterator[Spec]:
    """Yield a spec, and those of the parts of a composite evaluator."""
    yield spec
    parts = spec.get("parts") if isinstance(spec, Mapping) else None
    for part in parts.values() if isinstance(parts, Mapping) else ():
        yield from specs_in(part)


def names_in(spec: Spec) -> Iterator[str]:
    """Yield the names of the evaluators in a spec, those of the parts of a composite one included."""
    for part in specs_in(spec):
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            yield str(part.get("evaluator"))


def scores_groups(spec: Spec) -> bool:
    """Return True if the evaluator of a spec must see the results of a task together. It is not made for that.

    An evaluator of your own says so by an attribute `relative` of its class, its object or its function.

    Args:
        spec: see `make_evaluator`.

    Raises:
        ConfigError: its module has no such evaluator.
    """
    if not isinstance(spec, (str, Mapping)):
        return is_relative(spec)
    return any(
        bool(getattr(_found(name), "relative", False)) if ":" in name else name == "listwise" for name in names_in(spec)
    )


def _imported(name: str) -> Maker:
    """Return the maker of an evaluator that is named as module:name."""
    found = _found(name)

    def make(options: Options) -> Evaluator:
        made = found(**options) if callable(found) and (isinstance(found, type) or not _evaluates(found)) else found
        if not _evaluates(made):
            raise ConfigError(
                f"this is {type(made).__name__}, which has no evaluate: see agentfly.evaluators.Evaluator"
            )
        return made

    return make


def _found(name: str) -> object:
    module, _, attribute = name.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise ConfigError(f"there is no evaluator {name!r} ({fault}): give it as module:name") from fault
    return found


def _evaluates(candidate: object) -> TypeGuard[Evaluator]:
    return callable(getattr(candidate, "evaluate", None))


def _built_in(module: str, evaluator: str, settings: str) -> Maker:
    """Return the maker of an evaluator that takes its settings alone; its module is imported when it is made."""

    def make(options: Options) -> Evaluator:
        loaded = importlib.import_module(f"agentfly.evaluators.{module}")
        made: Evaluator = getattr(loaded, evaluator)(getattr(loaded, settings)(**options))
        return made

    return make


def _detector(options: Options) -> Evaluator:
    from agentfly.evaluators.measured.detector_checked import DetectorCheckedEvaluator, DetectorCheckSettings
    from agentfly.vision import make_engines

    engines = make_engines({"detector": options.pop("detector", "classical")})
    return DetectorCheckedEvaluator(engines.detector, DetectorCheckSettings(**options))


def _questions(options: Options) -> Evaluator:
    from agentfly.evaluators.judge.decomposed import QuestionJudge, QuestionSettings
    from agentfly.evaluators.measured.detector_checked import DetectorCheckedEvaluator
    from agentfly.vision import make_engines

    detector = options.pop("detector", "classical")
    checks = None if detector is None else DetectorCheckedEvaluator(make_engines({"detector": detector}).detector)
    return QuestionJudge(QuestionSettings(**options), checks)


def _composite(options: Options) -> Evaluator:
    from agentfly.evaluators.factory import CompositeEvaluator

    parts = options.pop("parts", {})
    if not isinstance(parts, Mapping):
        raise ConfigError("the parts of a composite evaluator are a mapping of names and evaluators")
    return CompositeEvaluator({name: make_evaluator(part) for name, part in parts.items()}, **options)


_MAKERS: Mapping[str, Maker] = {
    "reference": _built_in("measured.reference", "ReferenceEvaluator", "ReferenceConfig"),
    "structural": _built_in("measured.structural", "StructuralEvaluator", "StructuralConfig"),
    "judge": _built_in("judge.judge", "VlmJudge", "JudgeSettings"),
    "listwise": _built_in("judge.listwise", "ListwiseJudge", "ListwiseSettings"),
    "questions": _questions,
    "detector": _detector,
    "similarity": _built_in("measured.similarity", "DirectionalSimilarityEvaluator", "SimilaritySettings"),
    "editscore": _built_in("learned.editscore", "EditScoreEvaluator", "EditScoreSettings"),
    "editreward": _built_in("learned.editreward", "EditRewardEvaluator", "EditRewardSettings"),
    "http": _built_in("http", "HttpEvaluator", "HttpEvaluatorSettings"),
    "composite": _composite,
}
