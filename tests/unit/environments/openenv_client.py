"""A program of OpenEnv's side: its own client, with a scripted policy. Prints what it got as JSON.

Runs in an environment of OpenEnv's: python -m tests.unit.environments.openenv_client URL
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from openenv.core.generic_client import GenericEnvClient
from websockets.asyncio.client import connect

from tests.unit.environments.scripted import answer, next_turn


async def play(client: Any, seed: int) -> dict[str, Any]:
    result = await client.reset(seed=seed)
    first, messages, rewards = result.observation, list(result.observation["messages"]), [result.reward]
    while not result.done:
        turn = next_turn(messages)
        result = await client.step({"message": turn})
        messages += [turn, *result.observation["messages"]]
        rewards.append(result.reward)
    state = await client.state()
    return {
        "tools": [tool["function"]["name"] for tool in first["tools"]],
        "roles": [message["role"] for message in messages],
        "images": sum(json.dumps(message).count("data:image/png;base64,") for message in messages),
        "rewards": rewards,
        "info": result.observation["info"],
        "first_info": first["info"],
        "state": state,
    }


async def refusals(client: Any) -> list[str]:
    said = []
    asks: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: client.step({"message": answer("img_1")}),
        lambda: client.step({"message": {"role": "user", "content": "hello"}}),
        lambda: client.step({"words": "hello"}),
        lambda: client.reset(sead=1),
        lambda: client.reset(index=99),
        lambda: client.reset(seed="seven"),
    )
    for ask in asks:
        try:
            await ask()
            said.append("taken")
        except RuntimeError as fault:
            said.append(str(fault))
    return said


async def main(url: str) -> None:
    async with GenericEnvClient(base_url=url) as one, GenericEnvClient(base_url=url) as two:
        episodes = await asyncio.gather(play(one, 0), play(two, 0), return_exceptions=False)
        # Its client would wait for a reply to its first message, and the server has closed by then.
        async with connect(f"{url.replace('http', 'ws', 1)}/ws") as third:
            full = json.loads(await third.recv())["data"]["code"]
        print(json.dumps({"episodes": episodes, "full": full, "refusals": await refusals(one)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
