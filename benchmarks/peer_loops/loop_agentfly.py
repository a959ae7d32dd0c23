"""The same chains on our own rollout, through the client backend."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from loop_work import MODEL, SYSTEM, TASK, Canvas, Job, measured
from pydantic import SecretStr

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from agentfly.agents import Agent, AgentSettings, RolloutLimits
from agentfly.agents.llm_backends import ClientBackend, ClientConfig
from agentfly.errors import ToolError
from agentfly.images import ImageView
from agentfly.tools import ToolResult, Toolset, tool


class Desk:
    """The tools of one chain."""

    def __init__(self, job: Job, view: ImageView) -> None:
        self._job, self._view = job, view
        self._canvas: Canvas | None = None

    @tool
    async def paint(self, chain: int, turn: int) -> ToolResult:
        """Paint a rectangle on the image."""
        canvas = self._canvas = self._canvas or Canvas(self._job, chain)
        await asyncio.sleep(canvas.seconds(turn))
        try:
            handle = await asyncio.to_thread(lambda: self._view.store.put(canvas.paint(turn)))
        except RuntimeError as fault:
            # For the model to see. Any other exception is a bug of the tool, which ends the chain.
            raise ToolError(str(fault)) from fault
        return ToolResult("painted", (handle,))

    @tool
    async def final_answer(self, answer: str) -> ToolResult:
        """Finish."""
        return ToolResult(answer, final=True)


class PaintingAgent(Agent):
    """An agent with the two tools."""

    def __init__(self, job: Job) -> None:
        limits = RolloutLimits(max_turns=job.turns + 8, max_images=job.turns + 8, max_tool_calls=job.turns + 8)
        settings = AgentSettings(SYSTEM, limits, max_concurrent_chains=job.chains)
        config = ClientConfig(base_url=job.base_url, api_key=SecretStr("none"))
        super().__init__(MODEL, backend=ClientBackend(MODEL, config), settings=settings)
        self._job = job

    def toolset(self, view: ImageView) -> Toolset:
        """Return the two tools."""
        return Toolset.of(Desk(self._job, view))


async def run(job: Job) -> int:
    """Run all chains."""
    agent = PaintingAgent(job)
    conversations = [
        {"messages": [{"role": "user", "content": [{"type": "image", "image": image}, f"chain-{chain}: {TASK}"]}]}
        for chain, image in enumerate(job.photos)
    ]
    result = await agent.run(conversations, log_dir=Path(job.folder) / job.run if job.folder else None)
    await agent.close()
    return sum(trajectory.answered for trajectory in result)


if __name__ == "__main__":
    measured(lambda job: asyncio.run(run(job)))
