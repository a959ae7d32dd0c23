"""Evaluators from a few words of configuration: a name, or a mapping with the name and its settings.

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
from typing import Any

from pydantic import ValidationError

from agentfly.errors import ConfigError, unknown_name
from agentfly.evaluators.base import Evaluator
from agentfly.evaluators.guarded import GuardedEvaluator, GuardSettings

Spec = str | Mapping[str, Any] | Evaluator


def make_evaluator(spec: Spec) -> Evaluator:
    """The evaluator that a spec names. Models are loaded at their first sample, not here.

    A mapping may have `guard`, a mapping of `GuardSettings`: then the evaluator is a `GuardedEvaluator`.

    Args:
        spec: an evaluator as it is; "reference", "structural", "judge", "detector", "similarity", "http" or
            "composite"; a mapping with the name under `evaluator`, and the fields of its settings; or "module:name" of
            an evaluator of one's own, or of a function without arguments that makes one.

    Raises:
        ConfigError: an unknown name or setting, or the module has no such thing.
    """
    if not isinstance(spec, (str, Mapping)):
        return spec
    options: dict[str, Any] = {"evaluator": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("evaluator", None)
    if not isinstance(name, str):
        raise ConfigError('an evaluator is named under "evaluator", such as {"evaluator": "reference"}')
    guard = options.pop("guard", None)
    try:
        made = _own(name, options) if ":" in name else _maker(name)(options)
        return made if guard is None else GuardedEvaluator(made, GuardSettings(**guard))
    except (ValidationError, TypeError) as fault:
        raise ConfigError(f"evaluator {name!r}: {_words(fault)}") from fault


def _maker(name: str) -> Callable[[dict[str, Any]], Evaluator]:
    if name not in _MAKERS:
        raise ConfigError(unknown_name("evaluator", name, _MAKERS))
    return _MAKERS[name]


def _reference(options: dict[str, Any]) -> Evaluator:
    from agentfly.evaluators.measured.reference import ReferenceConfig, ReferenceEvaluator

    return ReferenceEvaluator(ReferenceConfig(**options))


def _structural(options: dict[str, Any]) -> Evaluator:
    from agentfly.evaluators.measured.structural import StructuralConfig, StructuralEvaluator

    return StructuralEvaluator(StructuralConfig(**options))


def _judge(options: dict[str, Any]) -> Evaluator:
    from agentfly.evaluators.judge import VlmJudge
    from agentfly.evaluators.judge.settings import JudgeSettings

    return VlmJudge(JudgeSettings(**options))


def _detector(options: dict[str, Any]) -> Evaluator:
    from agentfly.evaluators.measured.detector_checked import DetectorCheckedEvaluator, DetectorCheckSettings
    from agentfly.vision import make_engines

    engines = make_engines({"detector": options.pop("detector", "classical")})
    return DetectorCheckedEvaluator(engines.detector, DetectorCheckSettings(**options))


def _similarity(options: dict[str, Any]) -> Evaluator:
    from agentfly.evaluators.measured.similarity import DirectionalSimilarityEvaluator, SimilaritySettings

    return DirectionalSimilarityEvaluator(SimilaritySettings(**options))


def _http(options: dict[str, Any]) -> Evaluator:
    from agentfly.evaluators.http import HttpEvaluator, HttpEvaluatorSettings

    return HttpEvaluator(HttpEvaluatorSettings(**options))


def _composite(options: dict[str, Any]) -> Evaluator:
    from agentfly.evaluators.composite import CompositeEvaluator

    parts = options.pop("parts", {})
    if not isinstance(parts, Mapping):
        raise ConfigError("the parts of a composite evaluator are a mapping of names and evaluators")
    return CompositeEvaluator({name: make_evaluator(part) for name, part in parts.items()}, **options)


_MAKERS: Mapping[str, Callable[[dict[str, Any]], Evaluator]] = {
    "reference": _reference,
    "structural": _structural,
    "judge": _judge,
    "detector": _detector,
    "similarity": _similarity,
    "http": _http,
    "composite": _composite,
}


def _own(name: str, options: dict[str, Any]) -> Evaluator:
    """An evaluator of somebody's own, by module and name."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise ConfigError(f"there is no evaluator {name!r} ({fault}): give it as module:name") from fault
    made = found(**options) if isinstance(found, type) or not _is_evaluator(found) else found
    if not _is_evaluator(made):
        raise ConfigError(
            f"{name!r} is {type(made).__name__}, which has no evaluate: see agentfly.evaluators.Evaluator"
        )
    return made


def _is_evaluator(thing: Any) -> bool:
    return callable(getattr(thing, "evaluate", None))


def _words(fault: Exception) -> str:
    if not isinstance(fault, ValidationError):
        return str(fault)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors(include_input=False))
