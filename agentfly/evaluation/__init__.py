"""Evaluate agents: resumable runs on data sets, comparisons of two runs, and replays."""

from agentfly.agents.tasks import TaskFacts
from agentfly.evaluation.compare import compare_runs, comparison_page, permutation_p, write_comparison
from agentfly.evaluation.in_memory import Evaluation, evaluate_agent, paired_difference
from agentfly.evaluation.run import EvaluationRun, run_evaluation
from agentfly.evaluation.settings import EvaluationSettings, read_settings
from agentfly.evaluation.task_agent import TaskAgent, make_task_agent
from agentfly.evaluation.task_record import TaskRecord

__all__ = [
    "Evaluation",
    "EvaluationRun",
    "EvaluationSettings",
    "TaskAgent",
    "TaskFacts",
    "TaskRecord",
    "compare_runs",
    "comparison_page",
    "evaluate_agent",
    "make_task_agent",
    "paired_difference",
    "permutation_p",
    "read_settings",
    "run_evaluation",
    "write_comparison",
]
