"""Evaluators from configuration: a name, or a mapping with the name and its settings.

make_evaluator("reference")
make_evaluator({"evaluator": "judge", "model": "gpt-5", "scheme": "viescore", "passes": 2})
make_evaluator({
    "evaluator": "composite",
    "how": "minimum",
    "parts": {"judge": {"evaluator": "judge", "model": "gpt-5"}, "kept": "structural"},
})
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from agentfly.errors import ConfigError, unknown_name
from agentfly.evaluators.base import Evaluator
from agentfly.evaluators.guarded import GuardedEvaluator, GuardSettings

Spec = str | Mapping[str, Any] | Evaluator
Options = dict[str, Any]
Maker = Callable[[Options], Evaluator]


def make_evaluator(spec: Spec) -> Evaluator:
    """Return the evaluator that a spec names. Models are loaded at their first sample, not here.

    A mapping may have `guard`, a mapping of `GuardSettings`: then the evaluator is a `GuardedEvaluator`.

    Args:
        spec: an evaluator as it is; "reference", "structural", "judge", "detector", "similarity", "http" or
            "composite"; a mapping with the name under `evaluator`, and the fields of its settings; or "module:name" of
            an evaluator of your own, or of a function without arguments that returns one.

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
    from agentfly.evaluators.composite import CompositeEvaluator

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
    "http": _built_in("http", "HttpEvaluator", "HttpEvaluatorSettings"),
    "composite": _composite,
}
