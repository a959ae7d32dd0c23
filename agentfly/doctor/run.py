"""Run the checks at the same time, each with a time limit. A failure of a check becomes a finding."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from agentfly.doctor.examination import Check, DoctorRequest, Examination, Outcome
from agentfly.doctor.findings import Finding, Level, error, skipped
from agentfly.doctor.report import Report


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
