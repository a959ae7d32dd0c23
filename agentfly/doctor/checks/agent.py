"""Checks of an agent and its tools, as the options or the policy's card name them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from agentfly.agents import Agent
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.spec import AgentSpec
from agentfly.agents.tool_trial import ToolTrial, try_tools
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.errors import AgentFlyError
from agentfly.images import ImageStore, ImageView

_SECONDS = 20.0  # for one call of one tool


def agent(examination: Examination) -> Iterator[Finding]:
    """Make the agent, name its tools, and call each of the person's own once."""
    request = examination.request
    model = request.source or "doctor"
    try:
        card = PolicyConfig.read(model)
    except AgentFlyError as fault:
        yield error(str(fault), "write the card again with agentfly export, or remove it for the usual agent")
        return
    if request.agent is None and request.tools is None and card.agent is None and card.tools is None:
        yield skipped("the image-editing agent with its own tools", "name an agent or tools with --agent or --tools")
        return
    try:
        spec = AgentSpec(agent=request.agent, tools=request.tools).over(card.spec, Path(model).name)
    except AgentFlyError as fault:
        yield warning(str(fault), "give --agent and --tools, or --agent card")
        return
    try:
        made = make_agent(spec, model, backend=ScriptedBackend([]))
        names, trials = asyncio.run(_examine(made))
    except AgentFlyError as fault:
        yield error(str(fault), "give --agent and --tools as a recipe has them, from the folder of your project")
        return
    yield ok(f"agent {spec.label} with tools {', '.join(names)}")
    for trial in trials:
        if trial.fault is not None:
            yield error(trial.fault, "mend the tool")
        else:
            yield ok(f"{trial.tool} took {trial.seconds:.3f} s: {trial.outcome}")


async def _examine(made: Agent) -> tuple[list[str], list[ToolTrial]]:
    try:
        await made.prepare()
        return [tool.name for tool in made.tools_for(ImageView(ImageStore()))], await try_tools(made, _SECONDS)
    finally:
        await made.close()
