"""The inputs of a run: conversations in all accepted forms, their ids and their fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from agentfly.errors import ConfigError
from agentfly.images import ImageView, handle_of
from agentfly.messages import ImagePart, Message, TextPart, from_openai, plain_list

OneConversation = Mapping[str, Any]  # `messages`, and metadata under any other key
Conversation = OneConversation | Sequence[OneConversation]

PLACEHOLDER = "<image>"
"""Stands in a text for an image that is given in `images` beside the messages, as many data sets have it."""

_SOURCES = (Image.Image, bytes, str, os.PathLike, Mapping)
_NO_IMAGE = (
    f"a text has {PLACEHOLDER} and there is no image: give it in 'images' beside 'messages', or as a part of type "
    "'image' in place of the word"
)
_FORMS = "messages is a conversation or a non-empty list of conversations"


def conversations(messages: object) -> list[OneConversation]:
    """Return one or many conversations, in any of the accepted forms, as mappings with `messages`.

    Raises:
        ConfigError: not a conversation, an unknown role, an unknown kind of content, or images and placeholders that do
            not go together. Images are not loaded yet.
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
        conversation: OneConversation = {**(entry if isinstance(entry, Mapping) else {}), "messages": list(given)}
        if not conversation["messages"]:
            raise ConfigError("a conversation needs a message")
        conversation = place_images(conversation)
        read_messages(conversation, lambda _: "")
        found.append(conversation)
    return found


def place_images(conversation: OneConversation, *, strict: bool = False) -> OneConversation:
    """Return a conversation with the images beside its messages in their places.

    The places are image parts without an image or, where there are none, the placeholders in the texts.

    Args:
        conversation: with its images under `images`; one image need not be in a list.
        strict: it is a row of a data set, where the placeholder and `images` always mean images. Elsewhere a text may
            be about the word, and `images` without a list may be metadata of the user.

    Raises:
        ConfigError: the numbers of images and places differ, or a user's text has a placeholder and there is no image.
    """
    given = plain_list(conversation.get("images"))
    listed = isinstance(given, (list, tuple))
    if given is None and not (strict and any(_has_placeholder(m) for m in conversation["messages"])):
        return conversation
    if not strict and not listed and not isinstance(given, _SOURCES):
        return conversation
    images = [] if given is None else list(given) if listed else [given]
    messages = [dict(m) if isinstance(m, Mapping) else m for m in conversation["messages"]]
    parts = [(message, part) for message in messages for part in _parts(message)]
    bare = sum(_is_bare(part) for _, part in parts)
    shown = any(_shows_image(part) for _, part in parts) or any(isinstance(m, Message) and m.images for m in messages)
    if shown and not bare:
        return conversation
    marks = [(message["role"], _text(part).count(PLACEHOLDER)) for message, part in parts if _may_hold_places(message)]
    places = bare or sum(count for _, count in marks)
    if not images:
        if not bare and any(count for role, count in marks if role == "user"):
            raise ConfigError(_NO_IMAGE)
        return conversation
    if places != len(images):
        if not strict and not listed:
            return conversation
        raise ConfigError(
            f"{len(images)} images beside the messages, and {places} places for them: write {PLACEHOLDER} in the text "
            "where each belongs"
        )
    _fill(messages, images, bare=bool(bare))
    return {**{key: value for key, value in conversation.items() if key != "images"}, "messages": messages}


def _fill(messages: Sequence[Any], images: Sequence[object], *, bare: bool) -> None:
    """Put images into the places of messages that are mappings, in place."""
    left = iter(images)
    for message in messages:
        if bare or _may_hold_places(message):
            message["content"] = [new for part in _parts(message) for new in _filled(part, left, bare=bare)]


def _has_placeholder(message: object) -> bool:
    """Return True if a user's text holds a placeholder; a quick answer for conversations without images beside them."""
    if not isinstance(message, Mapping) or message.get("role") != "user":
        return False
    content = message.get("content")
    return PLACEHOLDER in content if isinstance(content, str) else any(PLACEHOLDER in _text(p) for p in _parts(message))


def _parts(message: object) -> list[Any]:
    """Return the parts of a message that is a mapping; a text is one part. Nothing is checked yet."""
    content = plain_list(message.get("content")) if isinstance(message, Mapping) else None
    return list(content) if isinstance(content, (list, tuple)) else [content] if isinstance(content, str) else []


def _may_hold_places(message: object) -> bool:
    # An assistant that says the word does not show an image, and a system message may talk about it.
    return isinstance(message, Mapping) and message.get("role") in ("user", "tool") and bool(_parts(message))


def _text(part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else ""


def _shows_image(part: object) -> bool:
    return isinstance(part, Mapping) and (part.get("image") is not None or part.get("image_url") is not None)


def _is_bare(part: object) -> bool:
    is_image = isinstance(part, Mapping) and part.get("type") in ("image", "image_url", "input_image")
    return is_image and not _shows_image(part)


def _filled(part: object, images: Iterator[object], *, bare: bool) -> Iterator[object]:
    """Yield a part with the next images in its places."""
    if bare:
        yield {"type": "image", "image": next(images)} if _is_bare(part) else part
        return
    text = _text(part)
    if PLACEHOLDER not in text:
        yield part
        return
    for number, words in enumerate(text.split(PLACEHOLDER)):
        if number:
            yield {"type": "image", "image": next(images)}
        if words:
            yield {"type": "text", "text": words}


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
    if (plain := plain_list(value)) is not value:
        return _canonical(plain)
    if isinstance(value, Iterable):
        return [_canonical(item) for item in value]
    raise ConfigError(f"a message cannot hold {type(value).__name__}: use text, numbers or images")
