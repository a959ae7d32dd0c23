"""`agentfly new`: a small project of a person's own, from the files in `template/`."""

from agentfly.project.create import POLICY_MISSING, NewProject, create_project

__all__ = ["POLICY_MISSING", "NewProject", "create_project"]
