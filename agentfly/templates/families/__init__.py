"""Model families: one entry each, with everything that differs from family to family. Nothing else knows families."""

from agentfly.templates.families.family import (
    LEVELS,
    CallForm,
    Family,
    Level,
    Placeholder,
    Processor,
    Reasoning,
    Runs,
    Support,
)
from agentfly.templates.families.published import PUBLISHED, PublishedModel
from agentfly.templates.families.registry import CALL_FORMS, FAMILIES, family_named, find_family, model_type_of

__all__ = [
    "CALL_FORMS",
    "FAMILIES",
    "LEVELS",
    "PUBLISHED",
    "CallForm",
    "Family",
    "Level",
    "Placeholder",
    "Processor",
    "PublishedModel",
    "Reasoning",
    "Runs",
    "Support",
    "family_named",
    "find_family",
    "model_type_of",
]
