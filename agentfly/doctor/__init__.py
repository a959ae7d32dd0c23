"""The checks of `agentfly doctor`, which find problems before a run does, in seconds and each with its fix.

A check is an entry of `checks.CHECKS`: a name, a function and a time limit. Functions named `check_*` judge facts
that are passed to them; the functions beside them gather the facts of this machine. Checks change nothing, and import
nothing heavy unless a model is named.
"""

from agentfly.doctor.checks import CHECKS
from agentfly.doctor.examination import Check, DoctorRequest, Examination, Outcome
from agentfly.doctor.findings import Finding, Level
from agentfly.doctor.report import Report, examine

__all__ = ["CHECKS", "Check", "DoctorRequest", "Examination", "Finding", "Level", "Outcome", "Report", "examine"]
