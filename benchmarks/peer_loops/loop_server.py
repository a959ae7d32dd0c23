"""The scripted OpenAI-compatible server: one process for all loops, with drawn waits and faults.

    python loop_server.py PORT

A chain is known by the first `chain-N` of a request, its turn by the ids of the calls that the request repeats. So the
server keeps no conversations, and a request that is sent again gets the same turn. Bodies are searched and not parsed.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from loop_work import FAULTS, MODEL, Job

CHAIN = re.compile(rb"chain-(\d+)")
TURN = re.compile(rb"call_\d+_(\d+)")


class Cut(Exception):
    """Ends a connection in the middle of an answer."""


@dataclass
class Run:
    """A run that a loop has registered, and what it has sent.

    Attributes:
        job: what to play.
        tried: requests of each chain and turn.
        answered: chains that got their last turn.
        images: images in the request for the last turn of each chain.
        sent: bytes of all requests.
    """

    job: Job
    tried: Counter[tuple[int, int]] = field(default_factory=Counter)
    answered: set[int] = field(default_factory=set)
    images: dict[int, int] = field(default_factory=dict)
    sent: int = 0

    def counts(self) -> dict[str, Any]:
        """Return what is reported of the run."""
        return {
            "requests": self.tried.total(),
            "answered": sorted(self.answered),
            "least_images": min(self.images.values(), default=0),
            "sent_mib": self.sent / 2**20,
        }

    async def answer(self, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to a request, after the wait of its turn.

        Raises:
            Cut: the plan breaks this connection.
        """
        named = CHAIN.search(body)
        if named is None:
            return 400, b'{"error": {"message": "no chain is named", "type": "invalid_request_error"}}'
        chain, turn = int(named[1]), max((int(found) for found in TURN.findall(body)), default=-1) + 1
        self.sent += len(body)
        self.tried[chain, turn] += 1
        fault = self.job.faulty.get((chain, turn)) if self.tried[chain, turn] == 1 else None
        if fault == FAULTS[0]:
            return 500, b'{"error": {"message": "out of luck", "type": "server_error"}}'
        last = turn >= self.job.turns - 1
        await asyncio.sleep(self.job.plan.waits[chain][min(turn, self.job.turns - 1)][0])
        if fault == FAULTS[1]:
            raise Cut
        arguments = json.dumps({"answer": "done"} if last else {"chain": chain, "turn": turn})
        if fault == FAULTS[2]:
            arguments = arguments[: len(arguments) // 2]
        if last:
            self.answered.add(chain)
            self.images[chain] = body.count(b";base64,")
        return 200, completion(f"call_{chain}_{turn}", "final_answer" if last else "paint", arguments)


def completion(call_id: str, name: str, arguments: str) -> bytes:
    """Return a chat completion with one tool call."""
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    message = {"role": "assistant", "content": "Let me look at the image once more.", "tool_calls": [call]}
    usage = {"prompt_tokens": 1000, "completion_tokens": 40, "total_tokens": 1040}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    whole = {"id": call_id, "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
    return json.dumps({**whole, "usage": usage}).encode()


class Server:
    """The application, in plain ASGI: a framework would take processor time from the loops."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        body, name = b"".join(pieces), scope["path"].split("/")[1]
        cut = False
        try:
            status, answer = await self._respond(scope, name, body)
        except Cut:
            cut, status, answer = True, 200, completion("call", "paint", "{}")
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer[: len(answer) // 2] if cut else answer})

    async def _respond(self, scope: Any, name: str, body: bytes) -> tuple[int, bytes]:
        if scope["path"].endswith("/chat/completions"):
            return await self._runs[name].answer(body)
        if scope["method"] == "POST":
            self._runs[name] = Run(Job(**json.loads(body)))
        run = self._runs.get(name)
        return 200, json.dumps(run.counts() if run else {}).encode()


if __name__ == "__main__":
    uvicorn.run(Server(), host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", access_log=False)
