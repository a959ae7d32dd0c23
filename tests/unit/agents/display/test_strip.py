"""The steps of a trajectory as a strip or an animation: every image once, with the call that made it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from agentfly.agents import ImageEditingAgent, Trajectory
from agentfly.agents.display.strip import Step, steps, write_steps
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import ImageError
from agentfly.images import ImageStore

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
ANSWER = (
    '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2", "description": "Dark."}}</tool_call>'
)


async def edited(image: Image.Image, script: list[str], max_turns: int = 4) -> tuple[Trajectory, ImageStore]:
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(script))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Darker."}]
    result = await agent.run([{"role": "user", "content": content}], max_turns=max_turns)
    return result[0], agent.store


async def test_each_image_comes_with_its_call_and_the_answer_last(image: Image.Image) -> None:
    found = steps(*await edited(image, [EDIT, ANSWER]))
    assert [step.caption for step in found] == [
        "img_1: given",
        "img_2: qwen_edit_image(image_id='img_1', prompt='darken')",
        "answer: img_2 (Dark.)",
    ]
    assert found[0].image.tobytes() == image.tobytes()
    assert found[1].image.tobytes() == found[2].image.tobytes() != image.tobytes()


async def test_an_image_of_the_last_turn_is_shown_though_the_model_never_saw_it(image: Image.Image) -> None:
    found = steps(*await edited(image, [EDIT], max_turns=1))
    assert [step.caption for step in found] == ["img_1: given", "answer: img_2"]


async def test_a_chain_that_made_nothing_shows_what_it_was_given(image: Image.Image) -> None:
    found = steps(*await edited(image, ["I would rather not."]))
    assert [step.caption for step in found] == ["img_1: given"]


@pytest.mark.slow
def test_a_strip_and_an_animation_have_all_steps_in_one_size(tmp_path: Path) -> None:
    shapes = [(300, 20), (20, 300), (1, 1), (2000, 1500)]
    captions = ["short", "word " * 90, "x" * 400, "中文 🐈 \x00"]
    shown = [Step(text, Image.new("RGBA", size, "red")) for text, size in zip(captions, shapes, strict=True)]
    with Image.open(write_steps(shown, tmp_path / "new" / "steps.png")) as strip:
        width, height = strip.size
        assert width % 4 == 0
        centres = [strip.convert("RGB").getpixel((width // 8 * (2 * i + 1), 170)) for i in range(4)]
        assert centres == [(255, 0, 0)] * 4
    with Image.open(write_steps(shown, tmp_path / "steps.gif")) as animation:
        frames = [frame.size for frame in ImageSequence.Iterator(animation)]
    assert frames == [(width // 4, height)] * 4


def test_a_strip_scales_to_the_side_with_arrows_between_images(tmp_path: Path) -> None:
    shown = [Step(colour, Image.new("RGB", (84, 84), colour)) for colour in ("red", "lime")]
    with Image.open(write_steps(shown, tmp_path / "strip.png", side=168)) as strip:
        assert strip.width == 2 * (168 + 2 * 17)
        pixels = np.asarray(strip)
        assert [(pixels == colour).all(axis=-1).sum() for colour in ((255, 0, 0), (0, 255, 0))] == [168 * 168] * 2
        gap = pixels[: 168 + 17, 17 + 168 : 17 + 168 + 34]
        assert (gap != 255).any(), "no arrow is drawn between the images"


def test_a_strip_wraps_words_wider_than_the_image_and_keeps_the_margin_free(tmp_path: Path) -> None:
    red = Image.new("RGB", (168, 168), "red")
    short, long = (
        write_steps([Step(text, red)], tmp_path / f"{len(text)}.png", side=168) for text in ("one", "m" * 90)
    )
    with Image.open(short) as one, Image.open(long) as many:
        assert one.width == many.width
        assert many.height > one.height
        assert (np.asarray(many)[:, -12:] == 255).all()


def test_a_strip_shows_transparency_as_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (100, 100), (255, 0, 0, 0))
    with Image.open(write_steps([Step("", clear)], tmp_path / "s.png", side=100)) as strip:
        assert strip.size == (134, 134)
        assert np.asarray(strip).min() == 255


@pytest.mark.parametrize("name", ["steps.png", "steps.gif"])
def test_a_full_disk_leaves_no_half_of_a_strip(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: Image.Image, path: Path, *given: Any, **more: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ImageError, match=f"cannot write .*{name}.*No space left"):
        write_steps([Step("x", Image.new("L", (4, 4)))], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    shown = [Step("x", Image.new("L", (4, 4)))]
    with pytest.raises(ImageError, match=r"strip \(\.png\) or an animation \(\.gif\)"):
        write_steps(shown, tmp_path / "steps.mp4")
    with pytest.raises(ImageError, match="there is no image"):
        write_steps([], tmp_path / "steps.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="cannot write"):
        write_steps(shown, tmp_path / "file" / "steps.png")
