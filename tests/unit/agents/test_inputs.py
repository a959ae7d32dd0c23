"""Conversations in the forms of data sets: images beside the messages, placeholders, arrays of parquet."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from agentfly.agents import ImageEditingAgent
from agentfly.agents.inputs import conversations, fingerprint, place_images, read_messages
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import ConfigError
from agentfly.images import encode_image
from agentfly.messages import ImagePart, Message, TextPart


def read(messages: Any, **beside: Any) -> list[tuple[str, ...]]:
    """The parts of each message: texts as they are, images in brackets."""
    (found,) = conversations({"messages": messages, **beside})
    return [
        tuple(part.text if isinstance(part, TextPart) else f"[{part.handle}]" for part in message.parts)
        for message in read_messages(found, str)
    ]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


BARE: dict[str, Any] = {"type": "image", "text": None, "image": None}


@pytest.mark.parametrize("images", [["a", "b"], ("a", "b"), np.array(["a", "b"], dtype=object)])
@pytest.mark.parametrize(
    ("messages", "parts"),
    [
        ([user("<image>\nDarken it like <image>.")], [("[a]", "\nDarken it like ", "[b]", ".")]),
        ([user("<image>one"), user("two<image>")], [("[a]", "one"), ("two", "[b]")]),
        ([user([{"type": "text", "text": "<image><image>x"}])], [("[a]", "[b]", "x")]),
        ([user([BARE, {"type": "text", "text": "to"}, {"type": "image"}])], [("[a]", "to", "[b]")]),
        ([user(np.array([BARE, "x", BARE], dtype=object))], [("[a]", "x", "[b]")]),
        (
            [user("<image>"), {"role": "assistant", "content": "an <image>"}, {"role": "tool", "content": "<image>"}],
            [("[a]",), ("an <image>",), ("[b]",)],
        ),
    ],
)
def test_images_beside_the_messages_fill_their_places_in_order(
    messages: list[Any], parts: list[tuple[str, ...]], images: Any
) -> None:
    before = copy.deepcopy(messages)
    assert read(messages, images=images) == parts
    assert str(messages) == str(before)


def test_one_image_need_not_be_in_a_list() -> None:
    assert read([user("<image>x")], images="a") == [("[a]", "x")]


@pytest.mark.parametrize(
    ("messages", "beside", "words"),
    [
        ([user("x")], {"images": ["a"]}, "1 images beside the messages, and 0 places"),
        ([user("<image>x")], {"images": ["a", "b"]}, "2 images beside the messages, and 1 places"),
        ([user("<image><image>x")], {"images": ["a"]}, "1 images beside the messages, and 2 places"),
        ([user([BARE])], {"images": ["a", "b"]}, "2 images beside the messages, and 1 places"),
        ([user("<image>x")], {"images": []}, "there is no image"),
        ([user("<image>x")], {"images": np.array([])}, "there is no image"),
        ([user([BARE, "x"])], {}, "needs the image under"),
    ],
)
def test_what_has_nothing_to_show_is_refused(messages: list[Any], beside: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(messages, **beside)


@pytest.mark.parametrize(
    ("text", "beside"),
    [
        ("Explain the SVG <image> element", {}),
        ("Explain the SVG <image> element", {"images": None}),
        ("How many?", {"images": 3}),
        ("Is <image> an element?", {"images": 3}),
        ("<image> and <image>", {"images": "two of them"}),
        ("How many?", {"images": "none"}),
        ("How many?", {"images": {"count": 0}}),
    ],
)
def test_a_text_about_the_word_and_metadata_of_that_name_are_let_through(text: str, beside: dict[str, Any]) -> None:
    (found,) = conversations({"messages": [user(text)], **beside})
    assert read([user(text)], **beside) == [(text,)]
    assert found.get("images") == beside.get("images")


@pytest.mark.parametrize("beside", [{}, {"images": None}, {"images": []}])
def test_the_word_in_a_row_of_a_data_set_needs_its_image(beside: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="there is no image"):
        place_images({"messages": [user("<image>x")], **beside}, strict=True)


@pytest.mark.parametrize("text", ["Explain the SVG <image> element", [{"type": "text", "text": "An <image>?"}]])
async def test_an_agent_answers_a_question_about_the_word(text: Any) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["It shows one."]))
    (trajectory,) = await agent.run([user(text)])
    assert trajectory.error is None
    assert trajectory.messages[-1].text == "It shows one."


def test_messages_that_show_their_own_images_stay_as_they_are() -> None:
    own = [user([{"type": "image", "image": "a"}, "<image> x"])]
    (found,) = conversations({"messages": own, "images": ["a"]})
    assert found == {"messages": own, "images": ["a"]}
    message = Message("user", (ImagePart("a"), TextPart("<image>")))
    assert conversations({"messages": [message], "images": ["a"]})[0]["messages"] == [message]


def test_others_than_the_user_may_say_the_word() -> None:
    messages = [{"role": "system", "content": "An image is an <image>."}, user("x")]
    assert read(messages) == [("An image is an <image>.",), ("x",)]


def test_the_images_beside_the_messages_count_in_the_fingerprint_and_are_no_metadata() -> None:
    (one,) = conversations({"messages": [user("<image>x")], "images": ["a"], "source": "s"})
    (other,) = conversations({"messages": [user("<image>x")], "images": ["b"]})
    assert fingerprint(one, None) != fingerprint(other, None)
    assert one.keys() == {"messages", "source"}


def test_an_array_and_a_list_have_one_fingerprint() -> None:
    parts = [{"type": "text", "text": "x", "weight": np.float32(0.5), "turn": np.int64(2)}]
    prints = [
        fingerprint(conversations({"messages": messages})[0], None)
        for messages in (
            [user(np.array(parts, dtype=object))],
            [user([{**parts[0], "weight": 0.5, "turn": 2}])],
            np.array([user(parts)], dtype=object),
        )
    ]
    assert len(set(prints)) == 1


async def test_a_row_of_parquet_with_images_beside_it_runs(image: Any) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["done"]))
    held = {"bytes": encode_image(image), "path": None}
    row = {"messages": np.array([user("<image>Darker.")], dtype=object), "images": np.array([held], dtype=object)}
    (trajectory,) = await agent.run([row])
    assert trajectory.error is None
    assert trajectory.messages[1].text == "img_1: Darker."
    assert agent.store.get(trajectory.images[0]).tobytes() == image.tobytes()
