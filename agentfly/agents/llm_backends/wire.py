"""Between the project's messages and what an OpenAI-compatible chat endpoint sends and takes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentfly.agents.llm_backends.base import FinishReason, Generation, GenerationRequest
from agentfly.errors import BackendError
from agentfly.messages import Message, TextPart, ToolCall

_FINISH: dict[str, FinishReason] = {"length": "length", "content_filter": "abort"}


@dataclass
class Reply:
    """What has come so far."""

    texts: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    finish: str | None = None
    usage: Any = None

    def add_call(self, index: int, call: Any) -> None:
        """Join one call, or one fragment of it, to what is known of it."""
        known = self.calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = known["id"] or call.id or ""
        known["name"] += (call.function and call.function.name) or ""
        known["arguments"] += (call.function and call.function.arguments) or ""

    def generation(self) -> Generation:
        """The reply in the project's own form."""
        calls = tuple(_tool_call(index, call) for index, call in sorted(self.calls.items()))
        return Generation(
            text="".join(self.texts),
            finish_reason=_FINISH.get(self.finish or "stop", "stop"),
            tool_calls=calls or None,
            prompt_tokens=self.usage.prompt_tokens if self.usage else 0,
            completion_tokens=self.usage.completion_tokens if self.usage else 0,
        )


def wire_messages(messages: Sequence[Message], urls: Mapping[str, str]) -> list[dict[str, Any]]:
    """Messages as the endpoint takes them.

    The API has no pictures in `tool` messages: the text stays there, and the pictures follow in a user message after
    the run of tool messages that they belong to.

    Args:
        messages: the conversation.
        urls: data URI of each picture handle.
    """
    out: list[dict[str, Any]] = []
    waiting: list[str] = []

    def flush() -> None:
        if waiting:
            pictures = [{"type": "image_url", "image_url": {"url": urls[handle]}} for handle in waiting]
            note = {"type": "text", "text": "Pictures of the tool results above, in order:"}
            out.append({"role": "user", "content": [note, *pictures]})
            waiting.clear()

    for message in messages:
        if message.role != "tool":
            flush()
            out.append(message.to_openai(urls.__getitem__))
            continue
        waiting.extend(message.images)
        texts = tuple(part for part in message.parts if isinstance(part, TextPart))
        out.append(Message("tool", texts, tool_call_id=message.tool_call_id).to_openai(urls.__getitem__))
    flush()
    return out


async def image_urls(request: GenerationRequest) -> dict[str, str]:
    """Data URI (PNG) of each picture of the conversation, encoded once each and off the event loop.

    Raises:
        BackendError: there are pictures, but no `load_image`.
    """
    handles = list(dict.fromkeys(handle for message in request.messages for handle in message.images))
    load = request.load_image
    if not handles:
        return {}
    if load is None:
        raise BackendError("the conversation has pictures, but the request has no load_image")

    def encode(handle: str) -> str:
        buffer = io.BytesIO()
        load(handle).save(buffer, "PNG", compress_level=1)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    encoded = await asyncio.gather(*(asyncio.to_thread(encode, handle) for handle in handles))
    return dict(zip(handles, encoded, strict=True))


def _tool_call(index: int, call: Mapping[str, str]) -> ToolCall:
    call_id = call["id"] or f"call_{index}"
    try:
        arguments = json.loads(call["arguments"] or "{}")
    except json.JSONDecodeError as fault:
        return ToolCall(call_id, call["name"], error=f"arguments are not valid JSON: {fault}")
    if not isinstance(arguments, dict):
        return ToolCall(call_id, call["name"], error="arguments must be a JSON object")
    return ToolCall(call_id, call["name"], arguments)
