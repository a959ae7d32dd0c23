"""Names of images while several calls add to one view, and stores that find what they lack."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from agentfly.errors import ImageError
from agentfly.images import ImageStore, ImageView


def grey(value: int) -> Image.Image:
    return Image.new("L", (4, 4), value)


def test_drafts_are_named_when_they_settle() -> None:
    view = ImageView(ImageStore())
    view.add(grey(1))
    first, second = view.draft(), view.draft()
    with second:
        later = view.add(grey(30))
        assert view.get(later).getpixel((0, 0)) == 30
        assert view.add(grey(1)) == "img_1"
    with first:
        sooner = view.add(grey(20))
        mask = view.add(grey(21), "mask")
    assert list(view) == ["img_1"]
    assert first.settle() == {sooner: "img_2", mask: "mask_1"}
    assert second.settle() == {later: "img_3"}
    assert view.get("img_3").getpixel((0, 0)) == 30
    # A tool that has kept its provisional name can still use it.
    assert view.handle(later) == view.handle("img_3")


def test_a_draft_sees_the_view_as_it_was() -> None:
    view = ImageView(ImageStore())
    view.add(grey(1))
    draft = view.draft()
    view.add(grey(2))
    with draft, pytest.raises(ImageError, match=r"Valid: img_1$"):
        view.get("img_2")
    assert view.get("img_2").getpixel((0, 0)) == 2


def test_a_draft_of_one_view_leaves_others_alone() -> None:
    mine, other = ImageView(ImageStore()), ImageView(ImageStore())
    with mine.draft():
        assert other.add(grey(5)) == "img_1"
    assert len(mine) == 0


def test_a_store_looks_into_another_one(tmp_path: Path) -> None:
    log, store = ImageStore(tmp_path), ImageStore()
    handle = log.put(grey(7))
    assert handle not in store
    store.look_in(log)
    store.look_in(store)
    assert handle in store
    assert store.get(handle).getpixel((0, 0)) == 7
    with pytest.raises(ImageError, match="no image"):
        store.get("img_000000000000")
