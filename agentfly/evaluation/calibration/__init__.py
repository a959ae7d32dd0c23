"""Calibration of evaluators: accuracy on pairs whose order is known, and resistance to attacks."""

from agentfly.evaluation.calibration.attacks import Subject, attack

__all__ = ["Subject", "attack"]
