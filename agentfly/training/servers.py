"""Check that the image servers of a run answer before it starts: without any of them it ends at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from agentfly.training.checks import RAY_ADDRESS
from agentfly.training.settings import TrainSettings
from agentfly.vision.remote.preflight import require_nodes


def require_servers(settings: TrainSettings) -> Mapping[str, str]:
    """Warn of servers that cannot be used, which the others do without, and return them by address, with the reason.

    Raises:
        ConfigError: there is no other. Where Ray runs already, those who call may see more than is seen from here.
    """
    without = "let the engines do everything with agentfly.client_nodes=[]"
    return asyncio.run(require_nodes(settings.nodes(), without, warn_only=RAY_ADDRESS in os.environ))
