"""Editors of one image, of several, and of a few: who is asked, and who is refused before work begins."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.vision.base import EditParams, MultiImageEditor, edit_images, most_images


class Single:
    """Edits one image."""

    name = "single"

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        return Image.new("RGB", image.size, "red")


class Several(Single):
    """Edits up to `max_images`, and counts them."""

    def __init__(self, max_images: int) -> None:
        self.max_images = max_images
        self.counted: list[int] = []

    async def edit_images(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        self.counted.append(len(images))
        return Image.new("RGB", images[0].size, "blue")


def test_the_capability_is_told_by_the_method() -> None:
    assert isinstance(Several(3), MultiImageEditor)
    assert not isinstance(Single(), MultiImageEditor)
    assert [most_images(editor) for editor in (Several(3), Single(), None)] == [3, 1, 1]


async def test_one_image_goes_the_ordinary_way_and_more_are_counted(noise: Image.Image) -> None:
    editor = Several(2)
    edited = [await edit_images(editor, [noise] * count, "red", EditParams()) for count in (1, 2)]
    assert [image.getpixel((0, 0)) for image in edited] == [(255, 0, 0), (0, 0, 255)]
    with pytest.raises(ToolError, match="single takes 2 images at most, got 3: leave some out"):
        await edit_images(editor, [noise] * 3, "red", EditParams())
    assert editor.counted == [2]


@pytest.mark.parametrize("editor", [Single(), Several(1)])
async def test_an_editor_of_one_image_names_what_to_do_instead(editor: Single, noise: Image.Image) -> None:
    with pytest.raises(EngineUnavailable, match="such as Qwen-Image-Edit-2509: single takes one; give one image, or"):
        await edit_images(editor, [noise] * 2, "red", EditParams())
