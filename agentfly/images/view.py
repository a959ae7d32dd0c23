"""The images of one chain by short names, and the names that concurrent tool calls give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from uuid import uuid4

from PIL import Image

from agentfly.errors import ImageError, shortened, unknown_name
from agentfly.images.store import ImageStore
from agentfly.images.tool_call import check_call_goes_on

# Names that an image has no longer alone once an equal one is added as a kind; for kinds not named, those of views.
_RENAMED: Mapping[str, tuple[str, ...]] = {"img": ("view_", "mask_"), "view": ()}


@dataclass
class _Names:
    """Names of images and their handles, both ways."""

    handles: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, handle: str) -> None:
        self.handles[name], self.names[handle] = handle, name


class ImageView:
    """The images of one chain by name, in the order of their coming: `img_1`, ..., masks `mask_1`, views `view_1`.

    Short names cost a policy three tokens where a hash costs a dozen, and a mistyped one is never another chain's
    image. Handles of images that the view holds are accepted, too.
    """

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self._settled = _Names()
        self._provisional: dict[str, str] = {}

    def add(self, image: Image.Image, kind: str = "img") -> str:
        """Store an image and return its name in this view; an equal image keeps its name.

        An image that is a view alone is named anew when an equal one is added as another kind, and a mask when one is
        added as an image, since views and masks may not be edited.

        Args:
            image: any image.
            kind: first part of the name: "img", "mask", "view" for what is only looked at, or another word.
        """
        return self.add_handle(self.store.put(image), kind)

    def add_handle(self, handle: str, kind: str = "img") -> str:
        """Name an image that the store holds, and return the name; see `add`. A call that has ended names none."""
        check_call_goes_on(self)
        names = self._names
        if handle not in names.names or names.names[handle].startswith(_RENAMED.get(kind, ("view_",))):
            draft = self._draft
            count = sum(name.startswith(f"{kind}_") for name in names.handles)
            names.add(f"{kind}_{count + 1}" if draft is None else draft.provisional(handle, kind), handle)
        return names.names[handle]

    def handle(self, name: str) -> str:
        """Return the handle of a name or handle that is in the view.

        Raises:
            ImageError: it is not in this view; the message lists the names that are.
        """
        names = self._names
        if name in names.handles:
            return names.handles[name]
        if name in names.names:
            return name
        if name in self._provisional:
            return self._provisional[name]
        if not names.handles:
            raise ImageError(f"unknown image id {shortened(name)!r}: there is no image in this conversation")
        raise ImageError(unknown_name("image id", name, names.handles))

    def name(self, handle: str) -> str:
        """Return the name of a handle in this view, the latest of several."""
        return self._names.names[self.handle(handle)]

    def all_names(self, handle: str) -> tuple[str, ...]:
        """Return every name of a handle in this view; an image that was first a view has two."""
        return tuple(name for name, known in self._names.handles.items() if known == handle)

    def get(self, name: str) -> Image.Image:
        """Return a copy of the image of a name or handle."""
        return self.store.get(self.handle(name))

    def draft(self) -> Draft:
        """Return a context in which new images get provisional names; see `Draft`."""
        return Draft(self)

    def __contains__(self, name: object) -> bool:
        return name in self._names.handles or name in self._names.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names.handles)

    def __len__(self) -> int:
        return len(self._names.handles)

    @property
    def _draft(self) -> Draft | None:
        draft = _DRAFT.get()
        return draft if draft is not None and draft.view is self else None

    @property
    def _names(self) -> _Names:
        draft = self._draft
        return self._settled if draft is None else draft.names


class Draft:
    """The images that one of several concurrent tool calls adds to a view.

    Names must not depend on the speed of the calls. Inside the context a call sees the view as it was when the draft
    was made, and its new images get provisional names; `settle`, called in the order of the calls, gives them their
    final names.
    """

    def __init__(self, view: ImageView) -> None:
        self.view = view
        self.names = _Names(dict(view._settled.handles), dict(view._settled.names))
        self._new: list[tuple[str, str, str]] = []
        self._token: Token[Draft | None] | None = None

    def provisional(self, handle: str, kind: str) -> str:
        """Return a new name that no message can contain; it works in the view as long as the view lives."""
        name = f"{kind}_draft{uuid4().hex[:8]}"
        self._new.append((name, handle, kind))
        return name

    def settle(self) -> dict[str, str]:
        """Name the new images in the view, in the order of their coming, and return the names by provisional name."""
        self.view._provisional.update((name, handle) for name, handle, _ in self._new)
        return {name: self.view.add_handle(handle, kind) for name, handle, kind in self._new}

    def __enter__(self) -> Draft:
        self._token = _DRAFT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _DRAFT.reset(self._token)


_DRAFT: ContextVar[Draft | None] = ContextVar("agentfly_image_draft", default=None)
