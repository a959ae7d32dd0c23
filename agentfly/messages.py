"""Messages between user, policy and tools, and their OpenAI form.

Images are never inside a message: an `ImagePart` carries the handle of an image in the `ImageStore`, so that messages
are small and fit for logs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfly.errors import ConfigError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
# Servers in Python, in JavaScript and in PHP write these for a call without arguments.
NO_ARGUMENTS = ("", "null", "None", "undefined", "[]")


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image, by its handle in the store (`img_` + 12 hex digits of its content hash)."""

    handle: str


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of the policy.

    Attributes:
        id: unique within its message; the tool message that answers it carries the same id.
        name: name of the tool.
        arguments: parsed arguments; empty when `error` is set.
        error: the reason why the call could not be parsed, for the model; None for a well-formed call.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    def to_openai(self) -> dict[str, object]:
        """Return the call as an entry of OpenAI's `tool_calls`, with its arguments as JSON text."""
        arguments = json.dumps(dict(self.arguments), ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: of the speaker.
        parts: text and images in order.
        tool_calls: calls of the assistant.
        tool_call_id: id of the call that a tool message answers.
    """

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """All text of the message, images left out."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[str, ...]:
        """Handles of the images of the message, in order."""
        return tuple(part.handle for part in self.parts if isinstance(part, ImagePart))

    def to_dict(self) -> dict[str, object]:
        """Return the message in plain JSON, which `from_dict` reads back equal; images as handles."""
        parts = [
            {"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image", "image": p.handle}
            for p in self.parts
        ]
        out: dict[str, object] = {"role": self.role, "content": parts}
        if self.tool_calls:
            out["tool_calls"] = [
                {"id": c.id, "name": c.name, "arguments": dict(c.arguments), "error": c.error} for c in self.tool_calls
            ]
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """Read a message from the form of `to_dict`."""
        parts = tuple(TextPart(p["text"]) if p["type"] == "text" else ImagePart(p["image"]) for p in data["content"])
        calls = tuple(ToolCall(**call) for call in data.get("tool_calls", ()))
        return cls(check_role(data["role"]), parts, calls, data.get("tool_call_id"))

    def to_openai(self, image_url: Callable[[str], str]) -> dict[str, object]:
        """Return the message for an OpenAI-compatible chat endpoint.

        Args:
            image_url: returns the URL (usually a data URI) of an image handle.
        """
        out: dict[str, object] = {"role": self.role}
        if any(isinstance(part, ImagePart) for part in self.parts):
            out["content"] = [
                {"type": "text", "text": p.text}
                if isinstance(p, TextPart)
                else {"type": "image_url", "image_url": {"url": image_url(p.handle)}}
                for p in self.parts
            ]
        else:
            out["content"] = self.text
        if self.tool_calls:
            out["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        return out

    def to_template(self) -> dict[str, object]:
        """Return the message for chat templates: `image` parts as bare placeholders, arguments as objects."""
        out: dict[str, object] = {"role": self.role}
        if any(isinstance(part, ImagePart) for part in self.parts):
            out["content"] = [
                {"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image"} for p in self.parts
            ]
        else:
            out["content"] = self.text
        if self.tool_calls:
            out["tool_calls"] = [
                {"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
                for c in self.tool_calls
            ]
        return out


def text_message(role: Role, text: str) -> Message:
    """Return a message of one text part."""
    return Message(role, (TextPart(text),))


def without_thoughts(text: str) -> str:
    """Return an answer without its reasoning; empty where a limit cut it off before the reasoning was over."""
    answer = text.rpartition("</think>")[2].strip()
    return "" if answer.startswith("<think>") else answer


def check_role(role: object) -> Role:
    """Return a role if it is valid; `developer`, OpenAI's newer name for it, is `system`.

    Raises:
        ConfigError: it is not; the message lists the valid ones.
    """
    if role == "developer":
        return "system"
    for valid in ROLES:
        if role == valid:
            return valid
    raise ConfigError(f"message role {role!r} is not one of {', '.join(ROLES)}")


def from_openai(message: object, store_image: Callable[[Any], str]) -> Message:
    """Read one message in any of the forms that people write: OpenAI, Qwen, or a bare string as content.

    Args:
        message: `role` and `content`; content is a string, or a list of parts of type `text`, `image` (any image
            source under `image`) or `image_url`. The object is not changed.
        store_image: puts an image source into the store and returns its handle.

    Raises:
        ConfigError: unknown role or part type; the message names it.
        ImageError: an image cannot be loaded.
    """
    if not isinstance(message, Mapping) or "role" not in message:
        raise ConfigError(f"a message is a mapping with 'role' and 'content', got {type(message).__name__}")
    content = plain_list(message.get("content"))
    if content is None or isinstance(content, str):
        content = (content,) if content else ()
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise ConfigError(f"message content is a string or a list of parts, got {type(content).__name__}")
    parts = tuple(_read_part(part, store_image) for part in content)
    calls = tuple(_read_calls(plain_list(message.get("tool_calls")) or ()))
    return Message(check_role(message["role"]), parts, calls, message.get("tool_call_id"))


def plain_list(value: Any) -> Any:
    """Return an array, which is what rows of parquet have for a list, as a list; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _read_part(part: object, store_image: Callable[[Any], str]) -> Part:
    if isinstance(part, str):
        return TextPart(part)
    if not isinstance(part, Mapping):
        raise ConfigError(f"a content part is a mapping with 'type', got {type(part).__name__}")
    # Rows of a data set have every key in every part, with None where it does not apply.
    given = {key: part[key] for key in ("text", "image", "image_url") if part.get(key) is not None}
    kind = part.get("type") or next(iter(given), None)
    if kind in ("text", "input_text"):
        if "text" not in given:
            raise ConfigError(f"a part of type {kind!r} needs its words under 'text'")
        return TextPart(str(given["text"]))
    if kind in ("image", "image_url", "input_image"):
        source = given.get("image", given.get("image_url"))
        if isinstance(source, Mapping) and "url" in source:
            source = source["url"]
        if source is None:
            raise ConfigError(f"a part of type {kind!r} needs the image under 'image' or 'image_url'")
        return ImagePart(store_image(source))
    raise ConfigError(f"unknown content part type {kind!r}; use 'text', 'image' or 'image_url'")


def _read_calls(calls: Any) -> Iterator[ToolCall]:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise ConfigError(f"'tool_calls' is a list of calls, got {type(calls).__name__}")
    for index, call in enumerate(calls):
        # Rows of a data set may have a `function` of None beside the name.
        function = (call.get("function") or call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or function.get("name") is None:
            raise ConfigError("a tool call needs the 'name' of its function")
        arguments, error = function.get("arguments"), None
        try:
            for _ in range(2):
                # Some servers send a JSON text of a JSON text.
                if isinstance(arguments, str):
                    text = arguments.strip()
                    arguments = None if text in NO_ARGUMENTS else json.loads(text)
        except (ValueError, RecursionError) as fault:
            arguments, error = {}, f"arguments are not valid JSON: {fault}"
        arguments = plain_list(arguments)
        if arguments is None or arguments == []:
            arguments = {}
        if not isinstance(arguments, Mapping):
            error = f"arguments are a JSON object of names and values, not {type(arguments).__name__}"
            arguments = {}
        yield ToolCall(str(call.get("id") or f"call_{index}"), str(function["name"]), arguments, error)
