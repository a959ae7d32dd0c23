"""What a person writes without a library: one coroutine a chain, a list of messages, OpenAI's client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from loop_work import MODEL, SYSTEM, TASK, TOOLS, Canvas, Job, measured, png_url
from openai import AsyncOpenAI


def first_messages(job: Job, chain: int) -> list[Any]:
    """Return the messages that a chain starts with."""
    image = {"type": "image_url", "image_url": {"url": png_url(job.photos[chain])}}
    text = {"type": "text", "text": f"chain-{chain}: {TASK}"}
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": [image, text]}]


async def one_chain(client: AsyncOpenAI, job: Job, chain: int, messages: list[Any], *, forgiving: bool = False) -> bool:
    """Take turns until the model finishes; `forgiving` shows errors of calls to the model."""
    canvas = Canvas(job, chain)
    while True:
        answer = await client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
        message: Any = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return False
        for call in message.tool_calls:
            try:
                arguments = json.loads(call.function.arguments)
                if call.function.name == "final_answer":
                    return True
                await asyncio.sleep(canvas.seconds(arguments["turn"]))
                url = await asyncio.to_thread(lambda turn: png_url(canvas.paint(turn)), arguments["turn"])
            except (ValueError, RuntimeError) as fault:
                if not forgiving:
                    raise
                messages.append({"role": "tool", "tool_call_id": call.id, "content": f"error: {fault}"})
                continue
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "painted"})
            messages.append({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})


async def run(job: Job) -> int:
    """Run all chains; a chain that fails does not end the others."""
    async with AsyncOpenAI(base_url=job.base_url, api_key="none") as client:
        chains = [one_chain(client, job, chain, first_messages(job, chain)) for chain in range(job.chains)]
        return sum(done is True for done in await asyncio.gather(*chains, return_exceptions=True))


if __name__ == "__main__":
    measured(lambda job: asyncio.run(run(job)))
