"""Which images a tool may edit, and which may be the answer."""

from __future__ import annotations

import pytest
from PIL import Image

from agentfly.errors import ToolError
from agentfly.images import ImageStore, ImageView, handle_of
from agentfly.tools.image_ids import answerable, editable, handle_of_id, mask_for


@pytest.fixture
def images() -> ImageView:
    """Two images, a mask, a view and an image with boxes drawn in."""
    view = ImageView(ImageStore())
    for kind, colour in (("img", "red"), ("mask", "white"), ("view", "blue"), ("img", "green"), ("boxes", "black")):
        view.add(Image.new("L" if kind == "mask" else "RGB", (8, 6), colour), kind)
    return view


@pytest.mark.parametrize("name", ["img_1", "img_2", "boxes_1"])
def test_images_of_other_kinds_may_be_edited(images: ImageView, name: str) -> None:
    assert handle_of(editable(images, name)) == images.handle(name) == answerable(images, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("view_1", "view_1 only shows something, so it cannot be edited: use img_1 or img_2"),
        ("mask_1", "mask_1 is a mask, so it cannot be edited: use img_1 or img_2"),
    ],
)
def test_what_only_shows_or_marks_is_not_edited_by_any_name(images: ImageView, name: str, words: str) -> None:
    for given in (name, images.handle(name)):
        with pytest.raises(ToolError) as caught:
            editable(images, given)
        assert str(caught.value) == words


def test_a_view_is_no_answer_and_a_mask_may_be_one(images: ImageView) -> None:
    assert answerable(images, "mask_1") == images.handle("mask_1")
    with pytest.raises(ToolError, match="view_1 only shows something, so it cannot be the answer: use img_1 or img_2"):
        answerable(images, "view_1")


def test_without_an_image_nothing_is_named() -> None:
    view = ImageView(ImageStore())
    view.add(Image.new("L", (2, 2)), "mask")
    with pytest.raises(ToolError, match="this conversation has no other image"):
        editable(view, "mask_1")


def test_only_the_latest_of_many_images_are_named() -> None:
    view = ImageView(ImageStore())
    for value in range(12):
        view.add(Image.new("RGB", (2, 2), (value, 0, 0)))
    view.add(Image.new("L", (2, 2)), "mask")
    with pytest.raises(ToolError, match=r"use img_5 or .* or img_12$"):
        editable(view, "mask_1")


def test_an_unknown_image_is_told_with_the_nearest(images: ImageView) -> None:
    for find in (handle_of_id, editable, answerable):
        with pytest.raises(ToolError, match="unknown image id 'img_3'"):
            find(images, "img_3")


def test_a_mask_for_an_edit_is_white_where_the_image_changes() -> None:
    images = ImageView(ImageStore())
    soft = Image.new("L", (8, 8), 3)
    images.add(soft, "mask")
    # A softened mask of small numbers is no mask of labels.
    assert mask_for(images, "mask_1", "img_1", (8, 8)).tobytes() == soft.tobytes()
    images.add(Image.new("L", (8, 8), 1))
    assert mask_for(images, "img_1", "img_1", (8, 8)).getextrema() == (255, 255)
    with pytest.raises(ToolError, match="mask_1 is 8x8 but img_9 is 4x8: use a mask of its size"):
        mask_for(images, "mask_1", "img_9", (4, 8))


def test_an_edit_that_makes_what_a_mask_shows_has_an_image_of_its_own_and_the_mask_stays_one(images: ImageView) -> None:
    soft = Image.new("L", (8, 6))
    soft.paste(2, (0, 0, 4, 6))
    mask = images.add(soft, "mask")
    made = images.add(soft)
    assert (mask, made) == ("mask_2", "img_3")
    assert handle_of(editable(images, made)) == images.handle(mask)
    # Its small numbers are no labels.
    assert mask_for(images, mask, "img_1", (8, 6)).getextrema() == (0, 2)
    assert images.add(soft, "mask") == images.add(soft, "view") == made
