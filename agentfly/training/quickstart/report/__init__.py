"""Show a quickstart: its learning curve, and one page with all results."""

from agentfly.training.quickstart.report.curves import StepRecord, learning_curve
from agentfly.training.quickstart.report.report import Example, Report, write_report

__all__ = ["Example", "Report", "StepRecord", "learning_curve", "write_report"]
