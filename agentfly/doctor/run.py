"""Run the checks at the same time, each with a time limit; whatever goes wrong in one becomes a finding."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from agentfly.doctor.examination import Check, DoctorRequest, Examination, Outcome
from agentfly.doctor.findings import Finding, Level, error, skipped
from agentfly.doctor.report import Report


def examine(request: DoctorRequest, checks: Sequence[Check]) -> Report:
    """Run the checks and collect what they say, in their order.

    Checks without `needs` run first, the others after all of them, so that they find what the first ones learned.

    Args:
        request: what to look at.
        checks: each `needs` names one without `needs`.
    """
    began = time.monotonic()
    examination, done = Examination(request), dict[str, Outcome]()
    for wave in ([c for c in checks if c.needs is None], [c for c in checks if c.needs is not None]):
        running = [_Running(check, examination) for check in wave if _may_run(check, done)]
        done |= {one.check.name: one.outcome() for one in running}
        done |= {check.name: _left_out(check) for check in wave if check.name not in done}
    return Report(tuple(done[check.name] for check in checks), time.monotonic() - began)


def _may_run(check: Check, done: dict[str, Outcome]) -> bool:
    if check.needs is None:
        return True
    return not {finding.level for finding in done[check.needs].findings} & {Level.error, Level.skipped}


def _left_out(check: Check) -> Outcome:
    return Outcome(check, (skipped(f"needs the check {check.needs!r} to pass"),), 0.0)


class _Running:
    """A check in a thread of its own: one that hangs is left behind, not waited for."""

    def __init__(self, check: Check, examination: Examination) -> None:
        self.check = check
        self._examination = examination
        self._findings: tuple[Finding, ...] = ()
        self._began = self._ended = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"doctor-{check.name}", daemon=True)
        self._thread.start()

    def outcome(self) -> Outcome:
        """What it said, after its time at the latest."""
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
        except Exception as fault:  # the boundary: a check that breaks must not take the others along
            said = str(fault).strip().splitlines() or ["no message"]
            self._findings = (
                error(
                    f"the check itself broke: {type(fault).__name__}: {said[0][:300]}",
                    f"look by hand at {self.check.about}, and report the fault of the check",
                ),
            )
        self._ended = time.monotonic()
