"""Data URIs are made once for each image, within a limit, and never for the wrong image."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from PIL import Image

from agentfly.errors import ImageError
from agentfly.images import DataUris, ImageStore, load_image

IMAGES = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(4)]


class Counting:
    """A store that counts what is loaded."""

    def __init__(self) -> None:
        self.store = ImageStore()
        self.handles = [self.store.put(image) for image in IMAGES]
        self.loaded: list[str] = []

    def get(self, handle: str) -> Image.Image:
        self.loaded.append(handle)
        return self.store.get(handle)


@pytest.fixture
def counting() -> Counting:
    return Counting()


async def test_an_image_is_encoded_once_however_often_it_is_sent(counting: Counting) -> None:
    uris = DataUris()
    first = await uris.of(counting.handles[:2], counting.get)
    again = await uris.of([*counting.handles[:3], counting.handles[0]], counting.get)
    assert list(again) == counting.handles[:3]
    assert again.items() >= first.items()
    assert sorted(counting.loaded) == sorted(counting.handles[:3])
    assert [load_image(uri).tobytes() for uri in again.values()] == [image.tobytes() for image in IMAGES[:3]]


async def test_chains_that_begin_with_one_image_together_wait_for_one_encoding(counting: Counting) -> None:
    go_on, uris = threading.Event(), DataUris()

    def load(handle: str) -> Image.Image:
        assert go_on.wait(60)
        return counting.get(handle)

    chains = [asyncio.ensure_future(uris.of(counting.handles[:1], load)) for _ in range(8)]
    await asyncio.sleep(0)
    # One that gives up does not take it from the others.
    chains[0].cancel()
    go_on.set()
    found = await asyncio.gather(*chains, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert len(counting.loaded) == 1
    assert all(uris == found[1] for uris in found[1:])


async def test_past_its_limit_the_least_recently_used_is_made_anew(counting: Counting) -> None:
    lengths = [len(uri) for uri in (await DataUris().of(counting.handles, counting.get)).values()]
    uris = DataUris(max_bytes=sum(lengths) - 1)
    counting.loaded.clear()
    for number in (0, 1, 0, 2, 3, 0, 1):
        await uris.of([counting.handles[number]], counting.get)
    assert [counting.handles.index(handle) for handle in counting.loaded] == [0, 1, 2, 3, 1]


async def test_a_name_that_is_no_hash_of_the_content_is_never_kept() -> None:
    uris = DataUris()
    shown = [(await uris.of(["img_1"], lambda _, image=image: image))["img_1"] for image in IMAGES]  # type: ignore[misc]
    assert len(set(shown)) == len(IMAGES)


async def test_an_image_that_cannot_be_loaded_is_asked_for_again(counting: Counting) -> None:
    uris = DataUris()

    def fail(handle: str) -> Image.Image:
        raise ImageError("the disk is away")

    loads: list[Callable[[str], Image.Image]] = [fail, counting.get]
    with pytest.raises(ImageError, match="the disk is away"):
        await uris.of(counting.handles[:1], loads[0])
    assert list(await uris.of(counting.handles[:1], loads[1])) == counting.handles[:1]


def test_it_serves_one_event_loop_after_another(counting: Counting) -> None:
    uris = DataUris()
    first, second = (asyncio.run(uris.of(counting.handles[:1], counting.get)) for _ in range(2))
    assert first == second
    assert len(counting.loaded) == 1
