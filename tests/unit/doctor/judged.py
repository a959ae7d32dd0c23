"""Short words for what checks say."""

from __future__ import annotations

from collections.abc import Iterable

from agentfly.doctor import Finding, Level


def judged(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Levels and messages; whatever is wrong must have its fix."""
    found = list(findings)
    assert all(finding.fix for finding in found if finding.level in (Level.warning, Level.error))
    return [(finding.level.value, finding.message) for finding in found]


def only(findings: Iterable[Finding]) -> tuple[str, str]:
    """The one finding."""
    (found,) = judged(findings)
    return found


def levels(findings: Iterable[Finding]) -> list[str]:
    """Levels alone."""
    return [level for level, _ in judged(findings)]
