"""The addresses in pages. A page is the same on the server and in an export: only its links differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlencode

from agentfly.images.store import HANDLE
from agentfly.viewer.index.query import MOST_CHARACTERS, Filters


class Links(Protocol):
    """Addresses of the pages and files of one run, for templates.

    `live` tells whether a server is behind the page: without one, nothing can be searched, rated or run again.
    `note` says what an export has; it is "" on the server.
    `image` and `thumb` return "" for an image that was not kept, `raw` where the lines are not at hand.
    """

    @property
    def live(self) -> bool: ...

    @property
    def note(self) -> str: ...

    def static(self, name: str) -> str: ...

    def page(self, name: str) -> str: ...

    def chains(self, filters: Filters | None = None) -> str: ...

    def chain(self, n: int, filters: Filters | None = None) -> str: ...

    def raw(self, n: int) -> str: ...

    def group(self, task: str, step: int | None = None, part: int | None = None) -> str: ...

    def groups(self, query: str = "") -> str: ...

    def image(self, part: int, handle: str | None) -> str: ...

    def thumb(self, part: int, handle: str | None) -> str: ...

    def iterations(self, record: str) -> str: ...

    def made(self, record: str, number: int, *, whole: bool) -> str: ...


@dataclass(frozen=True)
class ServerLinks:
    """Addresses on the server.

    Attributes:
        slug: of the run; "" on pages of no run.
        folders: of the images, by part: only an image that lies in its folder has an address.
    """

    slug: str
    live: bool = True
    folders: Mapping[int, Path] = field(default_factory=dict)
    note: str = ""

    def static(self, name: str) -> str:
        """Return the address of a file of `web/static`."""
        return f"/static/{name}"

    def page(self, name: str) -> str:
        """Return the address of a page of the run, such as "rate"; "" is its overview."""
        return f"/runs/{self.slug}/{name}"

    def chains(self, filters: Filters | None = None) -> str:
        """Return the address of the table of chains."""
        query = filters.to_query() if filters is not None else ""
        return self.page("chains") + (f"?{query}" if query else "")

    def chain(self, n: int, filters: Filters | None = None) -> str:
        """Return the address of one chain, with the filters of its table, by which its neighbours are found."""
        query = filters.to_query(page=1, size=50) if filters is not None else ""
        return self.page(f"chains/{n}") + (f"?{query}" if query else "")

    def raw(self, n: int) -> str:
        """Return the address of a chain's line as it stands in the file; "" where it is not at hand."""
        return self.page(f"chains/{n}/raw")

    def group(self, task: str, step: int | None = None, part: int | None = None) -> str:
        """Return the address of the chains of a task; at one step, or in one part, where they are given.

        An id that is too long for an address has that of all groups.
        """
        if len(task) > MOST_CHARACTERS:
            return self.groups()
        moment = {"step": step, "part": part}
        return self.page(f"group?{urlencode({'task': task} | {k: v for k, v in moment.items() if v is not None})}")

    def groups(self, query: str = "") -> str:
        """Return the address of the list of groups."""
        return self.page("groups") + (f"?{query}" if query else "")

    def image(self, part: int, handle: str | None) -> str:
        """Return the address of an image in full size."""
        return self.page(f"images/{part}/{handle}.png") if handle and self._is_kept(part, handle) else ""

    def thumb(self, part: int, handle: str | None) -> str:
        """Return the address of an image's thumbnail."""
        return self.page(f"thumbs/{part}/{handle}.webp") if handle and self._is_kept(part, handle) else ""

    def iterations(self, record: str) -> str:
        """Return the address of a run of image generation; several may share a folder."""
        return self.page(f"iterations?record={quote(record, safe='')}")

    def made(self, record: str, number: int, *, whole: bool) -> str:
        """Return the address of an image of such a run, in full size or as a preview."""
        return self.page(f"made/{quote(record, safe='')}/{number}{'' if whole else '.webp'}")

    def _is_kept(self, part: int, handle: str) -> bool:
        """Return True for the handle of an image that is there. A line may name anything."""
        folder = self.folders.get(part)
        return folder is not None and HANDLE.fullmatch(handle) is not None and (folder / f"{handle}.png").is_file()
