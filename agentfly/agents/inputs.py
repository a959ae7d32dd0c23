"""The inputs of a run: conversations in all accepted forms, their ids and their fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from agentfly.errors import ConfigError
from agentfly.images import ImageView, handle_of
from agentfly.messages import ImagePart, Message, TextPart, from_openai

OneConversation = Mapping[str, Any]  # `messages`, and metadata under any other key
Conversation = OneConversation | Sequence[OneConversation]

_FORMS = "messages is a conversation or a non-empty list of conversations"


def conversations(messages: object) -> list[OneConversation]:
    """Return one or many conversations, in any of the accepted forms, as mappings with `messages`.

    Raises:
        ConfigError: not a conversation, an unknown role or an unknown kind of content. Images are not loaded yet.
    """
    if isinstance(messages, Mapping):
        messages = [messages]
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Iterable):
        raise ConfigError(_FORMS)
    entries = list(messages)
    if not entries:
        raise ConfigError(_FORMS)
    if isinstance(entries[0], Message) or (isinstance(entries[0], Mapping) and "role" in entries[0]):
        entries = [{"messages": entries}]
    found: list[OneConversation] = []
    for entry in entries:
        given = entry.get("messages") if isinstance(entry, Mapping) else entry
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
            raise ConfigError("a conversation is a list of messages, or a mapping with 'messages'")
        conversation = {**(entry if isinstance(entry, Mapping) else {}), "messages": list(given)}
        if not conversation["messages"]:
            raise ConfigError("a conversation needs a message")
        read_messages(conversation, lambda _: "")
        found.append(conversation)
    return found


def read_messages(conversation: OneConversation, keep: Callable[[Any], str]) -> list[Message]:
    """Return the messages of a conversation; `keep` puts an image source into a store and returns its handle."""
    return [
        message if isinstance(message, Message) else from_openai(message, keep) for message in conversation["messages"]
    ]


def name_images(message: Message, view: ImageView) -> Message:
    """Return the message with the name of each image before it, so that the policy can refer to it."""
    if not message.images:
        return message
    parts: list[TextPart | ImagePart] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            parts.append(TextPart(f"{view.name(part.handle)}: "))
        parts.append(part)
    return Message(message.role, tuple(parts), message.tool_calls, message.tool_call_id)


def fingerprint(conversation: OneConversation, system_prompt: str | None) -> str:
    """Return a hash of the messages. Images count by content where they are at hand, or else by address."""
    try:
        content = json.dumps([system_prompt, _canonical(conversation["messages"])], ensure_ascii=False, sort_keys=True)
    except RecursionError:
        # Its chains fail when they are written, and so never count as finished.
        content = "nested too deeply"
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def group_ids(found: Sequence[OneConversation], otherwise: Sequence[str]) -> list[str]:
    """Return an id for each conversation: its own `id` or the given one; a second one of the same id gets `.2`."""
    seen: Counter[str] = Counter()
    ids = []
    for conversation, other in zip(found, otherwise, strict=True):
        own = conversation.get("id")
        group = other if own is None or own == "" else str(own)
        seen[group] += 1
        ids.append(group if seen[group] == 1 else f"{group}.{seen[group]}")
    return ids


def _canonical(value: object) -> object:
    """Return a value as JSON that is the same for equal content. Old logs have these hashes: keep each form."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Image.Image):
        return {"picture": handle_of(value)}
    if isinstance(value, Message):
        return value.to_dict()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_canonical(item) for item in value]
    raise ConfigError(f"a message cannot hold {type(value).__name__}: use text, numbers or images")
