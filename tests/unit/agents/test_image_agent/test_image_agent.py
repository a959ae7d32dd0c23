"""Runs of the agent: images in every form, ids beside each of them, and nothing shared that should not be."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, StopReason, Trajectory
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.errors import ConfigError, ImageError
from agentfly.images import ImageLimits, handle_of
from agentfly.messages import ImagePart, Message, TextPart
from tests.unit.agents.test_image_agent.conftest import Recorder, png


def call(name: str, **arguments: Any) -> str:
    """A turn that calls one tool."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


REPLACE = [
    call("detect_objects", image_id="img_1", text_prompt="red circle", auto_mask_dilate=4),
    call("inpaint_image", image_id="img_1", mask_id="mask_1", prompt="a blue star", seed=1),
    call("give_answer", final_image_id="img_2", description="The circle is a star now."),
]


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def agent_image(trajectory: Trajectory, agent: ImageEditingAgent) -> Image.Image:
    """What the chain made, from the store of its agent."""
    assert trajectory.names.keys() == {"img_1", "img_2"}
    return agent.store.get(trajectory.names["img_2"])


def named(message: Message) -> list[tuple[str, str]]:
    """Each image of a message with the text right before it."""
    pairs = zip(message.parts, message.parts[1:], strict=False)
    return [(a.text, b.handle) for a, b in pairs if isinstance(a, TextPart) and isinstance(b, ImagePart)]


async def test_a_circle_becomes_a_star_and_every_image_is_named(photo: Image.Image) -> None:
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(REPLACE))
    await agent.run(messages=[{"messages": [user({"type": "image", "image": photo}, "Make it a star.")]}], max_turns=4)
    (trajectory,) = agent.trajectories
    assert (trajectory.stop_reason, trajectory.answer) == (StopReason.ANSWERED, "The circle is a star now.")
    assert trajectory.names.keys() == {"img_1", "mask_1", "img_2"}
    assert trajectory.final_image == trajectory.names["img_2"]
    told = [pair for message in trajectory.messages for pair in named(message)]
    assert [handle for _, handle in told] == trajectory.images, "an image without words before it cannot be named"
    for text, handle in told:
        name = next(name for name, known in trajectory.names.items() if known == handle)
        assert text.startswith(f"{name}: ") or text == name
    before, after = (np.asarray(agent.store.get(trajectory.names[n]), int) for n in ("img_1", "img_2"))
    assert before[80, 180].argmax() == 0
    assert after[80, 180].argmax() == 2
    assert agent.rewards == [None]


Form = Callable[[Image.Image, Path], Any]
FORMS: dict[str, Form] = {
    "PIL": lambda image, path: image,
    "bytes": lambda image, path: png(image),
    "bytearray": lambda image, path: bytearray(png(image)),
    "path": lambda image, path: path,
    "path text": lambda image, path: str(path),
    "data URI": lambda image, path: "data:image/png;base64," + base64.b64encode(png(image)).decode(),
    "base64": lambda image, path: base64.b64encode(png(image)).decode(),
    "row with bytes": lambda image, path: {"bytes": png(image), "path": "somewhere-else.png"},
    "row with a path": lambda image, path: {"bytes": None, "path": str(path)},
}
PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "image": lambda source: {"type": "image", "image": source},
    "image_url": lambda source: {"type": "image_url", "image_url": {"url": source}},
    "bare image_url": lambda source: {"type": "image_url", "image_url": source},
    "no type": lambda source: {"image": source},
    "filled with None": lambda source: {"type": "image", "text": None, "image": source, "image_url": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("form", FORMS)
async def test_an_image_in_any_form_and_part_is_the_same_image(
    form: str, part: str, photo: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    photo.save(path)
    messages = [user(PARTS[part](FORMS[form](photo, path)), {"type": "text", "text": "Look."})]
    before = copy.deepcopy(messages)
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(["I looked."]))
    result = await agent.run(messages)
    assert result[0].images == [handle_of(photo)]
    assert messages == before


async def test_an_image_on_the_web_is_fetched_where_that_is_allowed(photo: Image.Image, photo_url: str) -> None:
    messages = [user({"type": "image_url", "image_url": {"url": photo_url}}, "Look.")]
    allowed = AgentSettings(image_limits=ImageLimits(allow_private_hosts=True))
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(["I looked."]), settings=allowed)
    assert (await agent.run(messages))[0].images == [handle_of(photo)]
    wary = ImageEditingAgent("scripted", backend=ScriptedBackend(["I looked."]))
    with pytest.raises(ImageError, match=r"127\.0\.0\.1"):
        await wary.run(messages)


def test_a_row_of_a_data_set_is_an_image(photo: Image.Image) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "raw": datasets.Image(decode=False)})
    row = datasets.Dataset.from_dict({"image": [photo], "raw": [photo]}, features=features)[0]
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(["I looked."]))
    messages = [user({"type": "image", "image": row["image"]}, {"type": "image", "image": row["raw"]}, "Look.")]
    result = asyncio.run(agent.run(messages))
    assert result[0].images == [handle_of(photo)] * 2
    assert result[0].names == {"img_1": handle_of(photo)}, "equal images have one name"


FLAT = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("messages", "chains"),
    [
        (FLAT, 1),
        ([FLAT], 1),
        ({"messages": FLAT}, 1),
        ([{"messages": FLAT}], 1),
        ([FLAT, FLAT], 2),
        ([{"messages": FLAT, "id": "a"}, {"messages": FLAT, "id": "b"}], 2),
        ([{"messages": tuple(FLAT), "id": "a"}, FLAT], 2),
    ],
)
async def test_messages_may_be_flat_or_nested(messages: Any, chains: int) -> None:
    before = copy.deepcopy(messages)
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(["hello"]))
    result = await agent.run(messages)
    assert len(result) == chains
    assert [trajectory.messages[1].text for trajectory in result] == ["hello"] * chains
    assert messages == before


async def test_no_image_is_said_and_many_are_numbered(photo: Image.Image) -> None:
    script = [call("qwen_edit_image", image_id="img_1", prompt="darken"), "Sorry."]
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(script))
    (without,) = await agent.run(FLAT)
    assert "there is no image in this conversation" in without.messages[3].text
    images = [photo.rotate(angle) for angle in range(0, 50, 10)]
    turns = [user(*({"type": "image", "image": p} for p in images[:3])), {"role": "assistant", "content": "And?"}]
    turns.append(user("These too.", *({"type": "image", "image": p} for p in images[3:])))
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend([script[0].replace("img_1", "img_5"), "done"]))
    (many,) = await agent.run(turns)
    told = [pair for message in many.messages for pair in named(message)]
    assert [text for text, _ in told] == ["img_1: ", "img_2: ", "img_3: ", "img_4: ", "img_5: ", "img_6"]
    assert many.tool_records[0].error is None


async def test_tools_tell_the_model_what_went_wrong_and_the_chain_goes_on(photo: Image.Image) -> None:
    script = [
        call("detect_objects", image_id="img_1", text_prompt="green star"),
        call("detect_objects", image_id="img_9", text_prompt="red circle"),
        call("inpaint_image", image_id="img_1", mask_id="img_1", prompt=""),
        call("detect_objects", image_id="img_1", text_prompt="red circle", box_threshold=7),
        call("detect_object", image_id="img_1", text_prompt="red circle"),
        call("give_answer", final_image_id="img_1"),
    ]
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(script))
    result = await agent.run([user({"type": "image", "image": photo}, "Try.")])
    told = [message.text for message in result[0].messages if message.role == "tool"]
    expected = [
        "no 'green star' found with box_threshold 0.35",
        "unknown image id 'img_9'. Did you mean 'img_1'?",
        "img_1 is a colour picture, not a mask: call detect_objects on img_1",
        "detect_objects: box_threshold must be <= 1, got 7",
        "unknown tool 'detect_object'. Did you mean 'detect_objects'?",
    ]
    assert len(told) == 5
    for text, words in zip(told, expected, strict=True):
        assert words in text
    assert result[0].answered


async def test_runs_and_agents_side_by_side_do_not_disturb_each_other(photo: Image.Image, recorder: Recorder) -> None:
    async def script(request: GenerationRequest) -> str:
        await asyncio.sleep(0)
        turn = sum(message.role == "assistant" for message in request.messages)
        assert request.load_image is not None
        wanted = request.load_image(request.images[0]).width % 3 + 1
        return call("qwen_edit_image", image_id="img_1", prompt="darken") if turn < wanted else "done"

    one = ImageEditingAgent("one", backend=ScriptedBackend(script))
    other = ImageEditingAgent("other", backend=ScriptedBackend(script), engines=recorder.engines())
    images = [photo.resize((60 + i, 40)) for i in range(6)]
    runs = [
        agent.run([user({"type": "image", "image": photo}, "Darker.")], num_chains=2)
        for agent in (one, other)
        for photo in images
    ]
    results = await asyncio.gather(*runs)
    for index, result in enumerate(results):
        own = images[index % 6]
        for trajectory in result:
            assert trajectory.images[0] == handle_of(own)
            assert len(trajectory.tool_records) == own.width % 3 + 1
            assert {record.engine for record in trajectory.tool_records} == {"classical" if index < 6 else "recorder"}
            assert agent_image(trajectory, (one, other)[index // 6]).size == own.size
    assert not set(one.images), "what chains make is theirs; the agent's own ids are for its person"


async def test_messages_read_as_documented(photo: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(REPLACE))
    await agent.run([user({"type": "image", "image": photo}, "Make it a star.")], num_chains=2)
    messages = agent.get_messages()
    assert len(messages) == 2
    for message in messages[0]["messages"]:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert all(part["type"] in ("text", "image") for part in message["content"])
    agent.print_messages(index=1)
    shown = capsys.readouterr().out
    assert "inpaint_image" in shown
    assert "give_answer" in shown
    with pytest.raises(ConfigError, match="there is no chain 2"):
        agent.print_messages(index=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"engins": None}, "Did you mean 'engines'"),
        ({"client_node": []}, "Did you mean 'client_nodes'"),
        ({"max_request_per_minute": 5}, "Did you mean 'max_requests_per_minute'"),
        ({"time_out": 5}, "Did you mean 'timeout'"),
        ({"backend_confg": {}}, "Did you mean 'backend_config'"),
        ({"timeout": 5.0}, "are for image servers: name them with client_nodes"),
        ({"max_requests_per_minute": 5}, "are for image servers: name them with client_nodes"),
    ],
)
def test_wrong_arguments_name_the_right_ones(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ImageEditingAgent("scripted", **{"backend": ScriptedBackend([]), **arguments})
