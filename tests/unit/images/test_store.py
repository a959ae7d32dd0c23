"""The store names images by content, keeps memory bounded, and never hands out its own pixels."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ImageError
from agentfly.images import ImageStore, ImageView, handle_of
from agentfly.images.png import png_bytes
from tests.unit.images.damage import DAMAGE


def make_image(value: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def test_equal_pixels_are_one_image_whatever_the_metadata() -> None:
    store, twin = ImageStore(), make_image(3)
    twin.info["comment"] = "other"
    assert store.put(make_image(3)) == store.put(twin)
    assert store.put(make_image(4)) != store.put(make_image(3))


def test_mode_and_shape_are_part_of_the_content() -> None:
    assert handle_of(Image.new("L", (4, 3))) != handle_of(Image.new("L", (3, 4)))
    assert handle_of(Image.new("L", (6, 2))) != handle_of(Image.new("RGB", (2, 2)))


def test_changing_an_image_outside_does_not_change_the_stored_one() -> None:
    store, mine = ImageStore(), make_image(1)
    handle = store.put(mine)
    mine.putpixel((0, 0), (9, 9, 9))
    store.get(handle).putpixel((0, 0), (7, 7, 7))
    assert handle_of(store.get(handle)) == handle


def test_a_shared_image_is_the_kept_one_from_memory_disk_and_another_store(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    handle = store.put(make_image(1))
    assert store.shared(handle) is store.shared(handle)
    reader, beside = ImageStore(tmp_path), ImageStore()
    assert reader.shared(handle) is reader.shared(handle)
    beside.look_in(store)
    assert beside.shared(handle) is store.shared(handle)
    # A copy is always the caller's own.
    for one in (store, reader, beside):
        one.get(handle).putpixel((0, 0), (7, 7, 7))
        assert handle_of(one.shared(handle)) == handle


def test_past_its_memory_the_store_goes_to_disk_and_gives_the_same_pixels() -> None:
    store = ImageStore(max_bytes=3 * 8 * 6 * 2)
    handles = [store.put(make_image(value)) for value in range(10)]
    assert len(store._memory) <= 2
    assert [handle_of(store.get(handle)) for handle in handles] == handles


def test_images_stay_readable_while_they_leave_memory() -> None:
    store = ImageStore(max_bytes=3 * 8 * 6 * 2)

    def work(start: int) -> bool:
        handles = [store.put(make_image(value % 40)) for value in range(start, start + 60)]
        return all(handle_of(store.get(handle)) == handle for handle in handles)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(0, 80, 10)))
    assert store._bytes == 3 * 8 * 6 * len(store._memory)
    assert not store._leaving


@pytest.mark.parametrize("durable", [True, False])
def test_a_slow_disk_holds_up_nobody_else(durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(tmp_path if durable else None, max_bytes=3 * 8 * 6)
    first = store.put(make_image(1))
    writing, go = threading.Event(), threading.Event()

    def slow(image: Image.Image, pixels: bytes | None) -> bytes:
        writing.set()
        assert go.wait(20)
        return png_bytes(image, pixels)

    monkeypatch.setattr("agentfly.images.store.png_bytes", slow)
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(store.put, make_image(2))
        assert writing.wait(20)
        assert handle_of(pool.submit(store.get, first).result(10)) == first
        assert first in store
        go.set()
        assert second.result(20) in store


def test_a_durable_store_is_read_by_another_one(tmp_path: Path) -> None:
    handle = ImageStore(tmp_path).put(make_image(5))
    other = ImageStore(tmp_path)
    assert handle in other
    assert handle_of(other.get(handle)) == handle
    assert [path.name for path in tmp_path.iterdir()] == [f"{handle}.png"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_never_taken_for_the_image(damage: str, tmp_path: Path) -> None:
    handle = ImageStore(tmp_path).put(make_image(5))
    DAMAGE[damage](tmp_path / f"{handle}.png")
    with pytest.raises(ImageError, match=handle):
        ImageStore(tmp_path).get(handle)


@pytest.mark.parametrize("damage", [kind for kind in DAMAGE if kind != "a folder"])
def test_putting_an_image_again_mends_its_file(damage: str, tmp_path: Path) -> None:
    handle = ImageStore(tmp_path).put(make_image(5))
    DAMAGE[damage](tmp_path / f"{handle}.png")
    assert ImageStore(tmp_path).put(make_image(5)) == handle
    assert handle_of(ImageStore(tmp_path).get(handle)) == handle


def test_a_damaged_file_is_read_from_another_store_that_has_the_image(tmp_path: Path) -> None:
    handle = ImageStore(tmp_path / "a").put(make_image(5))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    DAMAGE["truncated"](tmp_path / "a" / f"{handle}.png")
    store = ImageStore(tmp_path / "a")
    store.look_in(ImageStore(tmp_path / "b"))
    assert handle_of(store.get(handle)) == handle


def test_what_a_file_says_beside_its_pixels_is_not_kept(tmp_path: Path) -> None:
    image = make_image(5)
    image.info["transparency"] = (5, 5, 5)
    store = ImageStore(tmp_path)
    handle = store.put(image)
    with Image.open(tmp_path / f"{handle}.png") as file:
        assert not file.info
    assert ImageStore(tmp_path).get(handle).info == {}


def test_sync_waits_for_each_new_file_once_and_for_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        fsync(file)

    monkeypatch.setattr(os, "fsync", note)
    store = ImageStore(tmp_path)
    first, second = store.put(make_image(1)), store.put(make_image(2))
    assert synced == []
    store.sync()
    assert synced == [f"{handle}.png" for handle in sorted([first, second])] + [tmp_path.name]
    store.put(make_image(1))
    store.sync()
    assert len(synced) == 3
    # Another process may have written it without a sync so far.
    other = ImageStore(tmp_path)
    other.put(make_image(1))
    other.sync()
    assert synced[3:] == [f"{first}.png", tmp_path.name]


def test_images_that_another_store_has_lost_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = ImageStore(tmp_path / "a"), ImageStore(tmp_path / "b")
    good, bad = source.put(make_image(1)), source.put(make_image(2))
    DAMAGE["truncated"](tmp_path / "a" / f"{bad}.png")
    target.copy_from(ImageStore(tmp_path / "a"), [good, bad, "img_000000000000", "img_1"])
    assert [path.name for path in (tmp_path / "b").iterdir()] == [f"{good}.png"]
    assert bad in caplog.text


@pytest.mark.parametrize("name", ["img_000000000000", "../../etc/passwd", "img_1"])
def test_an_unknown_handle_is_an_error_and_never_a_path(name: str, tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    assert name not in store
    with pytest.raises(ImageError):
        store.get(name)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bit_grey_keeps_its_shades(mode: str) -> None:
    values = np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16 if mode == "I;16" else np.int32)
    store = ImageStore()
    kept = store.get(store.put(Image.fromarray(values)))
    assert (kept.mode, list(kept.tobytes())) == ("L", [0, 0x80, 0xFF])


def test_thirty_two_bit_grey_with_eight_bit_values_is_kept_as_it_is() -> None:
    store = ImageStore()
    kept = store.get(store.put(Image.fromarray(np.array([[0, 1, 255]], dtype=np.int32))))
    assert list(kept.tobytes()) == [0, 1, 255]


@pytest.mark.parametrize(("mode", "kept"), [("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("LA", "RGBA")])
def test_other_modes_become_one_of_three(mode: str, kept: str) -> None:
    store = ImageStore()
    assert store.get(store.put(Image.new(mode, (2, 2)))).mode == kept


def test_a_view_counts_images_and_masks_apart_and_knows_equal_ones() -> None:
    view = ImageView(ImageStore())
    names = [
        view.add(make_image(1)),
        view.add(Image.new("L", (8, 6)), "mask"),
        view.add(make_image(2)),
        view.add(make_image(1)),
    ]
    assert names == ["img_1", "mask_1", "img_2", "img_1"]
    assert list(view) == ["img_1", "mask_1", "img_2"]


def test_an_edit_that_equals_a_view_gets_a_name_of_its_own() -> None:
    view = ImageView(ImageStore())
    seen, edited = view.add(make_image(1), "view"), view.add(make_image(1))
    assert (seen, edited, view.add(make_image(1), "view")) == ("view_1", "img_1", "img_1")
    assert view.handle("view_1") == view.handle("img_1")
    assert view.name(view.handle("view_1")) == "img_1"
    assert view.all_names(view.handle("img_1")) == ("view_1", "img_1")


def test_a_view_takes_handles_of_its_own_images_only() -> None:
    store = ImageStore()
    mine, other = ImageView(store), ImageView(store)
    handle = store.put(make_image(1))
    mine.add_handle(handle)
    assert mine.name(handle) == "img_1"
    assert handle_of(mine.get("img_1")) == handle
    with pytest.raises(ImageError, match="there is no image"):
        other.get(handle)
    with pytest.raises(ImageError, match="Did you mean 'img_1'"):
        mine.get("img_2")


def test_a_file_that_is_mended_asks_nobody_to_mend_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handle = ImageStore(tmp_path).put(make_image(1))
    DAMAGE["truncated"](tmp_path / f"{handle}.png")
    ImageStore(tmp_path).put(make_image(1))
    assert "it is written anew" in caplog.text
    assert "put a copy" not in caplog.text
