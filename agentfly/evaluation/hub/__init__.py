"""Trajectories as a folder of the library `datasets`, with images in the rows and a card, ready for the hub."""

from agentfly.evaluation.hub.columns import line_of
from agentfly.evaluation.hub.export import HubExport, HubResult, export_trajectories

__all__ = ["HubExport", "HubResult", "export_trajectories", "line_of"]
