"""Show a run: its learning curve, and one page with all results."""

from agentfly.viewer.curves import StepRecord, learning_curve
from agentfly.viewer.report import Example, Report, write_report

__all__ = ["Example", "Report", "StepRecord", "learning_curve", "write_report"]
