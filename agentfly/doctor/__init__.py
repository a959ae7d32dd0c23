"""The checks behind `agentfly doctor`: they find problems in seconds, each with its fix, before a run does.

A check is data (`registry.CHECKS`): a name, a function, a time limit. The functions `check_*` judge facts that are
passed to them; the functions beside them gather the facts of this machine. Nothing is changed, and nothing heavy is
imported unless a model is named.
"""

from agentfly.doctor.examination import Check, DoctorRequest, Examination, Outcome
from agentfly.doctor.findings import Finding, Level
from agentfly.doctor.registry import CHECKS
from agentfly.doctor.report import Report
from agentfly.doctor.run import examine

__all__ = ["CHECKS", "Check", "DoctorRequest", "Examination", "Finding", "Level", "Outcome", "Report", "examine"]
