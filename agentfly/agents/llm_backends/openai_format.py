"""Convert between the project's messages and the JSON of an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Protocol, cast

from agentfly.agents.llm_backends.base import FinishReason, Generation, GenerationRequest
from agentfly.errors import BackendError
from agentfly.images import data_uri, without_transparency
from agentfly.messages import ImagePart, Message, Part, TextPart, text_message
from agentfly.tools.parsing import native_call

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
    from openai.types.chat.chat_completion import Choice
    from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
    from openai.types.chat.chat_completion_chunk import ChoiceDelta
    from openai.types.completion_usage import CompletionUsage

_FINISH: dict[str, FinishReason] = {"length": "length", "content_filter": "abort", "abort": "abort"}
_LONGEST_NAME = 80
_TOOLS_TEXT = (
    "You can call tools. These are their JSON schemas, one a line:\n<tools>\n{schemas}\n</tools>\n\n"
    "To call one, write its name and arguments as JSON between tags, and nothing after them:\n"
    '<tool_call>\n{{"name": "...", "arguments": {{...}}}}\n</tool_call>'
)


class _Function(Protocol):
    """Name and arguments of a call in the SDK's objects, whole or in fragments."""

    @property
    def name(self) -> str | None: ...

    @property
    def arguments(self) -> str | None: ...


class _Call(Protocol):
    """A tool call in the SDK's objects, or a fragment of one."""

    @property
    def id(self) -> str | None: ...

    @property
    def function(self) -> _Function | None: ...


@dataclass
class Reply:
    """The part of an answer that has come so far.

    A server with a reasoning parser sends thoughts apart from the content. They are put back before it, in the
    `<think>` tags of the models themselves, so that a text is the same whatever the server parses.

    Attributes:
        texts: pieces of the text.
        thinking: True while a thought has begun and not ended.
        calls: native calls by their index.
        finish, usage: as the server gave them.
        prompt_ids, token_ids, logprobs: of a vLLM server that was asked for them; `prompt_checked` when compared.
    """

    texts: list[str] = field(default_factory=list)
    thinking: bool = False
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    finish: str | None = None
    usage: CompletionUsage | None = None
    prompt_ids: list[int] | None = None
    prompt_checked: bool = False
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def read_answer(self, answer: ChatCompletion) -> None:
        """Add a whole answer of the SDK."""
        choice = answer.choices[0]
        self.texts.append(self._text(choice.message, choice.finish_reason))
        for index, call in enumerate(cast("Sequence[_Call] | None", choice.message.tool_calls) or ()):
            self._add_call(index, call)
        self.finish, self.usage = choice.finish_reason, answer.usage
        self._add_tokens(answer, choice)

    def read_chunk(self, chunk: ChatCompletionChunk) -> str:
        """Add one piece of a streamed answer of the SDK and return its text."""
        text = ""
        self.usage = chunk.usage or self.usage
        for choice in (chunk.choices or ())[:1]:
            text = self._text(choice.delta, choice.finish_reason)
            for fragment in choice.delta.tool_calls or ():
                self._add_call(fragment.index or 0, fragment)
            self.finish = choice.finish_reason or self.finish
            self._add_tokens(chunk, choice)
        if text:
            self.texts.append(text)
        return text

    def generation(self) -> Generation:
        """Return the reply in the project's own form."""
        calls = tuple(
            native_call(call["id"] or f"call_{index}", call["name"], call["arguments"])
            for index, call in sorted(self.calls.items())
        )
        return Generation(
            text="".join(self.texts),
            finish_reason=_FINISH.get(self.finish or "stop", "stop"),
            tool_calls=calls or None,
            prompt_tokens=self.usage.prompt_tokens if self.usage else 0,
            completion_tokens=self.usage.completion_tokens if self.usage else 0,
        )

    def _text(self, message: ChatCompletionMessage | ChoiceDelta, finish: str | None) -> str:
        """Return the text of a message, or of a piece of one, with its thoughts."""
        content = message.content or message.refusal or ""
        more = message.model_extra or {}
        thought = more.get("reasoning_content") or more.get("reasoning")
        text = ""
        if isinstance(thought, str) and thought:
            text = thought if self.thinking else f"<think>{thought}"
            self.thinking = True
        # A thought that was cut off stays open, as it does in the text of a server without a parser.
        if self.thinking and (content or message.tool_calls or finish not in (None, "length")):
            self.thinking = False
            return f"{text}</think>{content}"
        return text + content

    def _add_call(self, index: int, call: _Call) -> None:
        """Join one call, or one fragment of it, to the fragments before."""
        known = self.calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = known["id"] or call.id or ""
        known["name"] += (call.function and call.function.name) or ""
        known["arguments"] += (call.function and call.function.arguments) or ""

    def _add_tokens(self, answer: ChatCompletion | ChatCompletionChunk, choice: Choice | ChunkChoice) -> None:
        # vLLM's own fields, which the SDK keeps beside OpenAI's.
        self.prompt_ids = (answer.model_extra or {}).get("prompt_token_ids") or self.prompt_ids
        self.token_ids += (choice.model_extra or {}).get("token_ids") or ()
        if choice.logprobs is not None:
            self.logprobs += [entry.logprob for entry in choice.logprobs.content or ()]


def wire_messages(messages: Sequence[Message], urls: Mapping[str, str]) -> list[Mapping[str, object]]:
    """Return messages as the endpoint takes them.

    The API has no images in `tool` messages: the text stays there, and the images follow in a user message after
    the run of tool messages that they belong to. Each image stands behind the beginning of the text before it, which
    names it.

    Args:
        messages: the conversation.
        urls: data URI of each image handle.
    """
    out: list[Mapping[str, object]] = []
    waiting: list[Part] = []

    def flush() -> None:
        if waiting:
            note = TextPart("Images of the tool results above, in order:")
            out.append(Message("user", (note, *waiting)).to_openai(urls.__getitem__))
            waiting.clear()

    for message in messages:
        if message.role != "tool":
            flush()
            out.append(message.to_openai(urls.__getitem__))
            continue
        for before, part in zip((None, *message.parts), message.parts, strict=False):
            if isinstance(part, ImagePart):
                if isinstance(before, TextPart):
                    waiting.append(TextPart(f"\n{before.text[:_LONGEST_NAME]}\n"))
                waiting.append(part)
        texts = tuple(part for part in message.parts if isinstance(part, TextPart))
        out.append(Message("tool", texts, tool_call_id=message.tool_call_id).to_openai(urls.__getitem__))
    flush()
    return out


def tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[Message]:
    """Return the conversation for a server without tools.

    Args:
        messages: the conversation; its calls and results become text.
        tools: OpenAI tool schemas, which become part of the system message.
    """
    described = _TOOLS_TEXT.format(schemas="\n".join(json.dumps(dict(tool), ensure_ascii=False) for tool in tools))
    out: list[Message] = []
    for is_tool, run in groupby(messages, lambda message: message.role == "tool"):
        if is_tool:
            parts: list[Part] = []
            for message in run:
                parts += (TextPart("<tool_response>\n"), *message.parts, TextPart("\n</tool_response>\n"))
            out.append(Message("user", tuple(parts)))
            continue
        for message in run:
            bodies = ({"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls)
            texts = (json.dumps(body, ensure_ascii=False) for body in bodies)
            calls = (TextPart(f"\n<tool_call>\n{text}\n</tool_call>") for text in texts)
            out.append(Message(message.role, (*message.parts, *calls)))
    if out and out[0].role == "system":
        return [Message("system", (*out[0].parts, TextPart(f"\n\n{described}"))), *out[1:]]
    return [text_message("system", described), *out]


async def image_urls(request: GenerationRequest) -> dict[str, str]:
    """Return the data URI (PNG) of each image of the conversation, encoded once each and off the event loop.

    Raises:
        BackendError: there are images, but no `load_image`.
    """
    handles = list(dict.fromkeys(handle for message in request.messages for handle in message.images))
    load = request.load_image
    if not handles:
        return {}
    if load is None:
        raise BackendError("the conversation has images, but the request has no load_image")

    def encode(name: str) -> str:
        return data_uri(without_transparency(load(name)))

    encoded = await asyncio.gather(*(asyncio.to_thread(encode, name) for name in handles))
    return dict(zip(handles, encoded, strict=True))
