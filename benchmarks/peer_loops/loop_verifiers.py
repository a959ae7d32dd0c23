"""The same chains on verifiers v1: an agent of verifiers, whose harness plays a chain in this process.

The harness of verifiers' own chat loop starts a Python process for every chain; one in this process, which verifiers
allows, is the lighter way. Every turn goes through verifiers' own endpoint to the server, and is recorded on its trace.
Errors of calls are shown to the model, as that chat loop does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any

import verifiers.v1 as vf
from loop_plain import first_messages, one_chain
from loop_work import MODEL, Job, measured
from openai import AsyncOpenAI

if __name__ == "__main__":
    # Verifiers finds a harness by the name of its module, and must not import this one twice.
    sys.modules["loop_verifiers"] = sys.modules["__main__"]
STATE: dict[str, Any] = {}


class LoopHarnessConfig(vf.HarnessConfig):
    """No settings of its own."""


class LoopHarness(vf.Harness[LoopHarnessConfig]):
    """Plays the loop in the process of verifiers."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: Mapping[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Play one chain."""
        client: AsyncOpenAI = STATE["client"].with_options(base_url=endpoint, api_key=secret)
        messages = [message.model_dump(exclude_none=True) for message in data.prompt or ()]
        done = await one_chain(client, STATE["job"], data.idx or 0, messages, forgiving=True)
        return vf.ProgramResult(0 if done else 1, "", "")


__all__ = ["LoopHarness"]


async def run(job: Job) -> int:
    """Run all chains."""
    config = vf.AgentConfig(
        harness=LoopHarnessConfig(id="loop_verifiers"),
        runtime=vf.SubprocessConfig(),
        model=MODEL,
        client=vf.EvalClientConfig(base_url=job.base_url, api_key_var="NO_KEY"),
    )
    async with AsyncOpenAI(base_url=job.base_url, api_key="none") as client, vf.Agent(config) as agent:
        STATE.update(client=client, job=job)
        tasks = [vf.Task(vf.TaskData(idx=chain, prompt=first_messages(job, chain))) for chain in range(job.chains)]
        traces = await asyncio.gather(*(agent.run(task) for task in tasks), return_exceptions=True)
        return sum(not isinstance(trace, BaseException) and trace.ok for trace in traces)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    measured(lambda job: asyncio.run(run(job)))
