"""Whatever looks at an image sees the same pixels: the policy, its trainers, the judge and the detectors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.agents.llm_backends import AsyncVLLMBackend, GenerationRequest, SamplingParams
from agentfly.agents.llm_backends.openai_format import image_urls
from agentfly.evaluators.judge.judge import comparable
from agentfly.images import DataUris, handle_of, load_image, on_white
from agentfly.messages import ImagePart, Message
from agentfly.templates import ChatCodec
from agentfly.vision.compositing import restored
from agentfly.vision.detection.boxes import draw_detections

SHOWN = Image.new("RGB", (84, 84), "white")
SHOWN.paste((220, 30, 30), (20, 20, 60, 60))
# The same image with other colours where nothing shows, and a half-transparent square in place of a pale one.
HIDING = Image.new("RGBA", (84, 84), (10, 200, 40, 0))
HIDING.paste((220, 30, 30, 255), (20, 20, 60, 60))
SHOWN.paste((255, 127, 127), (64, 64, 80, 80))
HIDING.paste((255, 0, 0, 128), (64, 64, 80, 80))


@pytest.fixture(scope="module")
def codec(tiny_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(tiny_policy))


def asked(image: Image.Image, codec: ChatCodec | None = None) -> GenerationRequest:
    messages = (Message("user", (ImagePart("img_1"),)),)
    return GenerationRequest(
        request_id="1",
        session_id="1",
        messages=messages,
        tools=[],
        sampling=SamplingParams(),
        prompt_ids=() if codec is None else tuple(codec.prompt_ids(messages, (), lambda _: image)),
        images=("img_1",),
        load_image=lambda _: image,
    )


def by_api(image: Image.Image) -> Image.Image:
    return load_image(asyncio.run(image_urls(asked(image), DataUris()))["img_1"])


def by_judge(image: Image.Image) -> Image.Image:
    return comparable(SHOWN, image)[1]


def as_painted(image: Image.Image) -> Image.Image:
    return restored(image, image.size)


def drawn_on(image: Image.Image) -> Image.Image:
    return draw_detections(image, [])


@pytest.mark.parametrize("sees", [on_white, by_api, by_judge, as_painted, drawn_on])
def test_hidden_colours_are_seen_by_nobody(sees: Callable[[Image.Image], Image.Image]) -> None:
    for image in (HIDING, SHOWN):
        assert np.array_equal(np.asarray(sees(image)), np.asarray(SHOWN))


def test_the_engine_in_this_process_gets_the_image_on_white(codec: ChatCodec) -> None:
    prompt: Any = asyncio.run(AsyncVLLMBackend("m", codec=codec)._prompt(asked(HIDING, codec)))
    (image,) = prompt["multi_modal_data"]["image"]
    assert (image.mode, image.tobytes()) == ("RGB", SHOWN.tobytes())
    # Masks stay masks.
    prompt = asyncio.run(AsyncVLLMBackend("m", codec=codec)._prompt(asked(Image.new("L", (56, 56)), codec)))
    assert prompt["multi_modal_data"]["image"][0].mode == "L"


def test_trainers_see_what_the_policy_saw(codec: ChatCodec) -> None:
    torch = pytest.importorskip("torch")
    from agentfly.training.supervised.data.examples import pixels_of
    from agentfly.training.supervised.data.packed import Scaling
    from agentfly.training.verl.parity import ImageInputs

    processor: Any = codec.processor.image_processor
    pixels, grids = pixels_of(codec, [SHOWN])
    assert np.array_equal(pixels_of(codec, [HIDING])[0], pixels)
    made = ImageInputs(codec).of([handle_of(HIDING)], [HIDING], torch.tensor([1]))
    assert np.array_equal(made["pixel_values"].numpy(), pixels)
    scaling = Scaling.of(processor)
    assert np.array_equal(scaling.patches(processor, [HIDING]), scaling.patches(processor, [SHOWN]))
    assert len(grids) == 1


def test_drawing_boxes_leaves_the_image_alone() -> None:
    from agentfly.vision.base import Detection

    image = SHOWN.copy()
    draw_detections(image, [Detection("it", 0.9, (2, 2, 40, 40), Image.new("L", image.size, 255))])
    assert image.tobytes() == SHOWN.tobytes()


async def test_a_hidden_object_is_not_detected() -> None:
    from agentfly.vision.classical.detector import ClassicalDetector

    hidden = Image.new("RGBA", (84, 84), (255, 255, 255, 255))
    hidden.paste((220, 30, 30, 0), (20, 20, 60, 60))
    found = await ClassicalDetector().detect(hidden, "red square", box_threshold=0.35, text_threshold=0.25)
    assert not found
