"""Run the checks at the same time, each with a time limit, and report the findings in order.

Anything that goes wrong in a check becomes a finding. The report is lines for people, JSON for programs, and an exit
code for scripts.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentfly import __version__
from agentfly.doctor.examination import Check, DoctorRequest, Examination, Outcome
from agentfly.doctor.findings import Finding, Level, error, skipped


def examine(request: DoctorRequest, checks: Sequence[Check]) -> Report:
    """Run the checks and return their findings in order.

    Checks with `needs` run after all others, because they work with the results of those.

    Args:
        request: the objects to examine.
        checks: each `needs` names a check without `needs`.
    """
    began = time.monotonic()
    examination, done = Examination(request), dict[str, Outcome]()
    for wave in ([c for c in checks if c.needs is None], [c for c in checks if c.needs is not None]):
        running = []
        for check in wave:
            needed = done[check.needs].findings if check.needs is not None else ()
            if {finding.level for finding in needed} & {Level.error, Level.skipped}:
                done[check.name] = Outcome(check, (skipped(f"needs the check {check.needs!r} to pass"),), 0.0)
            else:
                running.append(_Running(check, examination))
        done |= {one.check.name: one.outcome() for one in running}
    return Report(tuple(done[check.name] for check in checks), time.monotonic() - began)


class _Running:
    """A check in a thread of its own. A check that hangs is abandoned after its time."""

    def __init__(self, check: Check, examination: Examination) -> None:
        self.check = check
        self._examination = examination
        self._findings: tuple[Finding, ...] = ()
        self._began = self._ended = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"doctor-{check.name}", daemon=True)
        self._thread.start()

    def outcome(self) -> Outcome:
        """Return the outcome, at the latest when the time of the check is over."""
        self._thread.join(max(0.0, self._began + self.check.seconds - time.monotonic()))
        if self._thread.is_alive():
            late = error(
                f"no answer within {self.check.seconds:g} s",
                f"find out what hangs: this check looks at {self.check.about}",
            )
            return Outcome(self.check, (late,), self.check.seconds)
        return Outcome(self.check, self._findings, self._ended - self._began)

    def _work(self) -> None:
        try:
            self._findings = tuple(self.check.run(self._examination))
        except Exception as fault:  # the boundary of a check: a bug in one must not end the others
            said = str(fault).strip().splitlines() or ["no message"]
            self._findings = (
                error(
                    f"the check itself broke: {type(fault).__name__}: {said[0][:300]}",
                    f"look by hand at {self.check.about}, and report the fault of the check",
                ),
            )
        self._ended = time.monotonic()


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
