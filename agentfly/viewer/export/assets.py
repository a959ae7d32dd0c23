"""What the pages of an export name: their addresses, and the images that have to come along."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from PIL import Image

from agentfly.errors import ImageError
from agentfly.images import ImageStore, load_image
from agentfly.viewer.index import Filters
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.opened import OpenRun
from agentfly.viewer.pages.iterations import PREVIEW_BYTES, PREVIEW_SIDE, image_bytes

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Asset:
    """An image that a page names.

    Attributes:
        name: unique in the export, and fit for a file.
        data: gives the bytes in full size.
        image: gives the pixels.
        small: gives the thumbnail as WebP.
    """

    name: str
    data: Callable[[], bytes]
    image: Callable[[], Image.Image]
    small: Callable[[], bytes]


class Places(Protocol):
    """Where pages and images are in an export; `here` is the file of the page that asks."""

    def page(self, key: str, here: str) -> str: ...

    def static(self, name: str, here: str) -> str: ...

    def image(self, asset: Asset, here: str, *, whole: bool) -> str: ...


@dataclass(frozen=True)
class ExportLinks(ServerLinks):
    """Addresses in an export; "" for what is not in it.

    Attributes:
        run: that is exported.
        stores: gives the images of a part.
        places: of pages and images.
        here: file of the page.
        note: what the export has, for all pages.
    """

    slug: str = ""
    live: bool = False
    run: OpenRun = field(kw_only=True)
    stores: Callable[[int], ImageStore] = field(kw_only=True)
    places: Places = field(kw_only=True)
    here: str = field(kw_only=True)
    note: str = field(kw_only=True)

    def static(self, name: str) -> str:
        """Return the address of a file of `web/static`."""
        return self.places.static(name, self.here)

    def page(self, name: str) -> str:
        """Return the address of a page."""
        return self.places.page(name, self.here)

    def chains(self, filters: Filters | None = None) -> str:
        """Return the address of the table, which has all chains of the export; "" for some of them."""
        return "" if filters is not None and filters.where()[1] else self.page("chains")

    def chain(self, n: int, filters: Filters | None = None) -> str:
        """Return the address of one chain."""
        return self.page(f"chains/{n}")

    def groups(self, query: str = "") -> str:
        """Return the address of a page of the list of groups."""
        return self.page(f"groups?{query}" if query else "groups")

    def image(self, part: int, handle: str | None) -> str:
        """Return the address of an image in full size, "" where it was not kept."""
        asset = self._stored(part, handle)
        return self.places.image(asset, self.here, whole=True) if asset else ""

    def thumb(self, part: int, handle: str | None) -> str:
        """Return the address of an image's thumbnail."""
        asset = self._stored(part, handle)
        return self.places.image(asset, self.here, whole=False) if asset else ""

    def made(self, record: str, number: int, *, whole: bool) -> str:
        """Return the address of an image of a run of image generation."""
        try:
            asset = _made(self.run, record, number)
        except ImageError:
            return ""
        return self.places.image(asset, self.here, whole=whole)

    def _stored(self, part: int, handle: str | None) -> Asset | None:
        """Return an image of a store; None where it was not kept, or its name is none."""
        if not handle:
            return None
        store = self.stores(part)
        try:
            path = store.path(handle)
        except ImageError:
            return None
        if path is None or path.is_symlink() or not path.is_file():
            return None
        return Asset(
            handle, lambda: _read_png(path), lambda: store.get(handle), lambda: self.run.thumbnails.get(handle, store)
        )  # fmt: skip


def _read_png(path: Path) -> bytes:
    """Return the bytes of a file of a store; a link that was put in its place is not followed."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            data = file.read()
    except OSError as fault:
        raise ImageError(f"the image {path.stem} was not kept") from fault
    if not data.startswith(_PNG):
        raise ImageError(f"the image {path.stem} is damaged")
    return data


def _made(run: OpenRun, record: str, number: int) -> Asset:
    """Return an image that a record names.

    Raises:
        ImageError: its file is not there.
    """

    # Read anew each time: the images of many runs would not fit into memory.
    def data() -> bytes:
        return image_bytes(run.run, record, number)

    data()
    return Asset(
        f"made_{record}_{number}",
        data,
        lambda: load_image(data()),
        lambda: run.thumbnails.of_data(data(), PREVIEW_SIDE, PREVIEW_BYTES),
    )
