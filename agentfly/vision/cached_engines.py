"""Engines with the tool cache in front.

Of equal calls at the same time only one does the work: the others wait for its result. When a call is cancelled, the
work continues as long as another call waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Generic, TypeVar

from PIL import Image

from agentfly.vision.base import (
    Delegating,
    Detection,
    Detections,
    Detector,
    Editor,
    EditParams,
    Engines,
    Inpainter,
    InpaintParams,
    edit_images,
    most_images,
)
from agentfly.vision.detection.boxes import box_mask
from agentfly.vision.tool_cache import CacheStats, Entry, ToolCache, cache_key, note_use

# Engines whose results do not depend on a seed.
DETERMINISTIC = ("classical",)

_Make = Callable[[], Awaitable[Entry]]
E = TypeVar("E", bound=Engines)
R = TypeVar("R")
T = TypeVar("T", Detector, Inpainter, Editor)


def cached(
    engines: E,
    cache: ToolCache,
    *,
    versions: Mapping[str, str] | None = None,
    unseeded: bool = False,
    deterministic: Collection[str] = DETERMINISTIC,
) -> E:
    """Return the engines with a cache in front.

    Detection has no randomness and is always cached. Inpainting and editing are cached where a call has a seed, or the
    engine is deterministic.

    Args:
        engines: the engines, which do the work on a miss.
        cache: keeps the results.
        versions: for "detect", "inpaint" and "edit", a version of the engine (weights, settings), where its name does
            not say it.
        unseeded: cache calls without a seed too. Every such call with equal arguments then gives the same image.
        deterministic: names of engines whose results do not depend on a seed.
    """
    return CacheFront(cache, versions or {}, unseeded, frozenset(deterministic)).before(engines)


def move_cache(behind: Engines, before: Callable[[Engines], E]) -> E:
    """Return engines made of others, with the cache of the others in front of the new ones instead.

    Args:
        behind: the others, with or without a cache.
        before: makes the new engines from the others without their cache.
    """
    detector, inpainter, editor = behind.detector, behind.inpainter, behind.editor
    if not (
        isinstance(detector, CachedDetector)
        and isinstance(inpainter, CachedInpainter)
        and isinstance(editor, CachedEditor)
    ):
        return before(behind)
    bare = replace(behind, detector=detector.engine, inpainter=inpainter.engine, editor=editor.engine)
    return detector.front.before(before(bare))


def cache_front(engines: Engines) -> CacheFront | None:
    """Return the cache in front of engines, None without one. Remote engines have it on this side of the network."""
    for engine in (engines.detector, engines.inpainter, engines.editor):
        if isinstance(engine, CachedDetector | CachedInpainter | CachedEditor):
            return engine.front
    return None


def cache_stats(engines: Engines) -> CacheStats | None:
    """Return the counters of the cache in front of engines in this process; None without a cache.

    Takes no time and waits for nothing.
    """
    front = cache_front(engines)
    return None if front is None else front.cache.stats


@dataclass
class _Flight:
    task: asyncio.Task[Entry]
    waiting: int = 0


class CacheFront:
    """The cache in front of three engines, and the calls in flight."""

    def __init__(
        self, cache: ToolCache, versions: Mapping[str, str], unseeded: bool, deterministic: frozenset[str]
    ) -> None:
        self.cache = cache
        self._versions = versions
        self._unseeded = unseeded
        self._deterministic = deterministic
        self._flights: dict[tuple[int, str], _Flight] = {}

    def before(self, engines: E) -> E:
        """Return the engines with this in front."""
        return replace(
            engines,
            detector=CachedDetector(engines.detector, self),
            inpainter=CachedInpainter(engines.inpainter, self),
            editor=CachedEditor(engines.editor, self),
        )

    async def through(
        self,
        engine: str,
        operation: str,
        parameters: Mapping[str, object],
        images: Sequence[Image.Image],
        make: _Make,
        read: Callable[[Entry], R],
    ) -> R:
        """Return the result from the cache, or from `make`, which is then kept.

        Args:
            engine, operation, parameters, images: see `cache_key`.
            make: does the work.
            read: returns the result of an entry; one that it cannot read is a miss.
        """
        version = self._versions.get(operation, "")

        def look_up() -> tuple[str, R | None]:
            key = cache_key(engine, version, operation, parameters, images)
            return key, self._find(key, read)

        key, found = await asyncio.to_thread(look_up)
        if found is not None:
            self.cache.count(hits=1)
            note_use()
            return found

        entry = await self._made(key, make)
        copies = Entry(tuple(image.copy() for image in entry.images), entry.data)
        return await asyncio.to_thread(read, copies)

    async def _made(self, key: str, make: _Make) -> Entry:
        """Return the entry of a key from `make`, or from a call that is making it now."""

        async def make_and_keep() -> Entry:
            entry = await make()
            await asyncio.to_thread(self.cache.put, key, entry)
            return entry

        # A task belongs to its event loop, and only callers on that loop can wait for it.
        place = (id(asyncio.get_running_loop()), key)
        flight = self._flights.get(place)
        shared = flight is not None
        if flight is None:
            self.cache.count(misses=1)
            flight = self._flights[place] = _Flight(asyncio.create_task(make_and_keep()))
            flight.task.add_done_callback(lambda task: self._remove(place, task))
        else:
            self.cache.count(shared=1)
        flight.waiting += 1
        try:
            entry = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._flights.pop(place, None)
                flight.task.cancel()
        if shared:
            note_use()
        return entry

    def _find(self, key: str, read: Callable[[Entry], R]) -> R | None:
        entry = self.cache.get(key)
        if entry is None:
            return None
        try:
            return read(entry)
        except (LookupError, TypeError, ValueError, AttributeError) as fault:
            self.cache.drop(key, f"{type(fault).__name__}: {fault}")
            return None

    async def image(
        self,
        engine: str,
        operation: str,
        parameters: Mapping[str, object],
        images: Sequence[Image.Image],
        make: Callable[[], Awaitable[Image.Image]],
    ) -> Image.Image:
        """Return the image of an operation as `through` does; a call without a seed may go past the cache."""
        given = dict(parameters)
        if engine in self._deterministic:
            given.pop("seed")
        elif given["seed"] is None and not self._unseeded:
            self.cache.count(skipped=1)
            return await make()

        async def entry() -> Entry:
            return Entry((await make(),))

        return await self.through(engine, operation, given, images, entry, lambda found: found.images[0])

    def _remove(self, place: tuple[int, str], task: asyncio.Task[Entry]) -> None:
        flight = self._flights.get(place)
        if flight is not None and flight.task is task:
            del self._flights[place]
        if not task.cancelled():
            # Marks a fault as seen even where every caller that waited has left.
            task.exception()


class _Cached(Generic[T]):
    """An engine with the cache in front."""

    def __init__(self, engine: T, front: CacheFront) -> None:
        self.engine: T = engine
        self.front = front

    @property
    def name(self) -> str:
        """Name of the engine."""
        return self.engine.name

    @property
    def cache(self) -> ToolCache:
        """The cache; its `stats` have the hit rate."""
        return self.front.cache

    async def maker(self, images: int = 1) -> str:
        """Return the name of the engine that would do a call with so many images, for the call's key."""
        return await self.engine.maker(images) if isinstance(self.engine, Delegating) else self.engine.name


class CachedDetector(_Cached[Detector]):
    """A detector with the cache in front; `cache.stats` has the hit rate."""

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Sequence[Detection]:
        """Return the objects that the engine finds, or found before; see `Detector`."""

        async def make() -> Entry:
            found = await self.engine.detect(image, prompt, box_threshold=box_threshold, text_threshold=text_threshold)
            return await asyncio.to_thread(_to_entry, found, image.size)

        parameters = {"prompt": prompt, "box_threshold": box_threshold, "text_threshold": text_threshold}
        return await self.front.through(
            await self.maker(), "detect", parameters, (image,), make, lambda entry: _from_entry(entry, image.size)
        )


class CachedInpainter(_Cached[Inpainter]):
    """An inpainter with the cache in front; `cache.stats` has the hit rate."""

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """Return the image that the engine paints, or painted before; see `Inpainter`."""
        parameters = {"prompt": prompt, **asdict(params)}
        return await self.front.image(
            await self.maker(),
            "inpaint",
            parameters,
            (image, mask),
            lambda: self.engine.inpaint(image, mask, prompt, params),
        )


class CachedEditor(_Cached[Editor]):
    """An editor with the cache in front; `cache.stats` has the hit rate."""

    @property
    def max_images(self) -> int:
        """See `MultiImageEditor`; 1 where the engine takes no references."""
        return most_images(self.engine)

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """Return the image that the engine makes, or made before; see `Editor`."""
        return await self.edit_images((image,), instruction, params)

    async def edit_images(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        """Return the image that the engine makes of several, or made before; see `MultiImageEditor`."""
        return await self.front.image(
            await self.maker(len(images)),
            "edit",
            {"prompt": instruction, **asdict(params)},
            images,
            lambda: edit_images(self.engine, images, instruction, params),
        )


def _to_entry(found: Sequence[Detection], size: tuple[int, int]) -> Entry:
    """Return detections as JSON and images; a mask that equals its box needs no image."""
    masks: list[Image.Image] = []
    objects: list[dict[str, object]] = []
    for one in found:
        mask = one.mask if one.mask.mode == "L" else one.mask.convert("L")
        plain = mask.tobytes() == box_mask(one.box, size).tobytes()
        objects.append(
            {"label": one.label, "score": one.score, "box": list(one.box), "mask": None if plain else len(masks)}
        )
        if not plain:
            masks.append(mask)
    best = found.best_rejected if isinstance(found, Detections) else None
    return Entry(tuple(masks), {"objects": objects, "best_rejected": best})


def _from_entry(entry: Entry, size: tuple[int, int]) -> Detections:
    """Return the detections of an entry.

    Raises:
        LookupError, TypeError, ValueError: the entry has another shape.
    """
    found = []
    for one in entry.data["objects"]:
        x0, y0, x1, y1 = map(int, one["box"])
        box = (x0, y0, x1, y1)
        mask = box_mask(box, size) if one["mask"] is None else entry.images[one["mask"]]
        if (mask.mode, mask.size) != ("L", size):
            raise ValueError(f"a mask is {mask.mode} {mask.size} for an image of {size}")
        found.append(Detection(str(one["label"]), float(one["score"]), box, mask))
    return Detections(found, best_rejected=entry.data["best_rejected"])
