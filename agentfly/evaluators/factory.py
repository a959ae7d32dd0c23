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
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeGuard

from agentfly.errors import ConfigError, EvaluatorError, unknown_name
from agentfly.evaluators.base import (
    EditSample,
    Evaluator,
    Score,
    check_ready,
    check_sample,
    close_evaluator,
    objections,
    sleep_evaluator,
    wake_evaluator,
)
from agentfly.evaluators.guarded import GuardedEvaluator, GuardSettings

How = Literal["product", "minimum", "weighted"]
HOWS: tuple[How, ...] = ("product", "minimum", "weighted")


class CompositeEvaluator:
    """Combines named parts. With v_i the value of part i over 100 and w_i its weight:

        product    100 * prod v_i^w_i
        minimum    100 * min v_i
        weighted   100 * sum w_i v_i / sum w_i

    With product and minimum nothing can be gained from one part alone. With a weighted mean it can, so that is for
    tables more than for rewards. If a part gives no score, the whole has none, and the reason names the part.

    Args:
        parts: evaluators by name.
        how: "product", "minimum" or "weighted".
        weights: of the parts, 1 where it is left out; not for the minimum.

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
        if how == "minimum" and weights:
            raise ConfigError("the minimum has no weights: leave them out, or use how='product'")
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
            EvaluatorError: a part gives no score.
        """
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

    async def check_ready(self) -> None:
        """Check all parts; see `AsksOthers.check_ready`. The message names every part that is not ready."""
        await _check_all({name: check_ready(part) for name, part in self.parts.items()})

    async def check_sample(self, sample: EditSample) -> None:
        """Check all parts; see `NeedsOfSamples.check_sample`. The message names every part that lacks something."""
        await _check_all({name: check_sample(part, sample) for name, part in self.parts.items()})

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
        if self.how == "minimum":
            value = min(shares.values())
        elif self.how == "product":
            value = math.prod(share ** self.weights[name] for name, share in shares.items())
        else:
            value = sum(self.weights[name] * share for name, share in shares.items()) / sum(self.weights.values())
        return Score(100.0 * value, feedback, aspects)


async def _check_all(checks: Mapping[str, Awaitable[None]]) -> None:
    if faults := await objections({f"part {name!r}": check for name, check in checks.items()}):
        raise EvaluatorError("; ".join(faults))


Spec = str | Mapping[str, Any] | Evaluator
Options = dict[str, Any]
Maker = Callable[[Options], Evaluator]


def make_evaluator(spec: Spec) -> Evaluator:
    """Return the evaluator that a spec names. Models are loaded at their first sample, not here.

    A mapping may have `guard`, a mapping of `GuardSettings`: then the evaluator is a `GuardedEvaluator`.

    Args:
        spec: an evaluator as it is; "reference", "structural", "judge", "detector", "similarity", "editscore",
            "editreward", "http" or "composite"; a mapping with the name under `evaluator`, and the fields of its
            settings; or "module:name" of an evaluator of your own, or of a function that returns one.

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


def _imported(name: str) -> Maker:
    """Return the maker of an evaluator that is named as module:name."""
    module, _, attribute = name.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise ConfigError(f"there is no evaluator {name!r} ({fault}): give it as module:name") from fault

    def make(options: Options) -> Evaluator:
        made = found(**options) if callable(found) and (isinstance(found, type) or not _evaluates(found)) else found
        if not _evaluates(made):
            raise ConfigError(
                f"this is {type(made).__name__}, which has no evaluate: see agentfly.evaluators.Evaluator"
            )
        return made

    return make


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
    "detector": _detector,
    "similarity": _built_in("measured.similarity", "DirectionalSimilarityEvaluator", "SimilaritySettings"),
    "editscore": _built_in("learned.editscore", "EditScoreEvaluator", "EditScoreSettings"),
    "editreward": _built_in("learned.editreward", "EditRewardEvaluator", "EditRewardSettings"),
    "http": _built_in("http", "HttpEvaluator", "HttpEvaluatorSettings"),
    "composite": _composite,
}
