"""The report of an examination: lines for people, JSON for programs, and an exit code for scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from agentfly import __version__
from agentfly.doctor.examination import Outcome
from agentfly.doctor.findings import Finding, Level


@dataclass(frozen=True)
class Report:
    """The outcomes of all checks.

    Attributes:
        outcomes: one per check, in order.
        seconds: wall-clock time of the examination.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings in order."""
        return tuple(finding for outcome in self.outcomes for finding in outcome.findings)

    @property
    def exit_code(self) -> int:
        """1 if there is an error, else 0."""
        return int(any(finding.level is Level.error for finding in self.findings))

    @property
    def summary(self) -> str:
        """The number of findings of each level, and the time."""
        counts = Counter(finding.level for finding in self.findings)
        return f"{', '.join(f'{counts[level]} {level.value}' for level in Level)} in {self.seconds:.1f} s"

    def to_json(self) -> str:
        """Return an object with `healthy`, `agentfly` (version), `seconds` and `findings`.

        A finding has `theme`, `check`, `level`, `message`, `fix` and the `seconds` of its check.
        """
        findings = [
            {
                "theme": outcome.check.theme,
                "check": outcome.check.name,
                "level": finding.level.value,
                "message": finding.message,
                "fix": finding.fix,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in self.outcomes
            for finding in outcome.findings
        ]
        body = {
            "healthy": self.exit_code == 0,
            "agentfly": __version__,
            "seconds": round(self.seconds, 3),
            "findings": findings,
        }
        return json.dumps(body, indent=2, ensure_ascii=False)

    def themes(self) -> Iterator[tuple[str, list[tuple[str, Finding]]]]:
        """Yield each theme with its (check name, finding) pairs, in order of first appearance."""
        grouped: dict[str, list[tuple[str, Finding]]] = {}
        for outcome in self.outcomes:
            grouped.setdefault(outcome.check.theme, []).extend((outcome.check.name, f) for f in outcome.findings)
        yield from grouped.items()
