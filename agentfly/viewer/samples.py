"""Images to begin with on the page Try: those of the runs that are viewed, and those that come with the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from PIL import Image

from agentfly.datasets import FAMILIES, StickerWorld
from agentfly.datasets.photos import PHOTOS, load_photo
from agentfly.errors import AgentFlyError
from agentfly.images import load_image
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.thumbnails import thumbnail_bytes

_MOST_OF_RUN = 8
_SECONDS = 0.5  # for the index of a run
_SQL = """SELECT MIN(n) AS n, part, source, instruction FROM chains WHERE source IS NOT NULL
GROUP BY part, source ORDER BY n LIMIT 100"""


@dataclass(frozen=True)
class Sample:
    """An image to begin with.

    Attributes:
        key: its name in addresses.
        origin: shown above a row of samples.
        instruction: that goes with it; "" for none.
        label: of the image, in words.
        load: returns the image.
        thumb: address of the thumbnail of a run; "" for images of the package.
    """

    key: str
    origin: str
    instruction: str
    label: str
    load: Callable[[], Image.Image]
    thumb: str = ""


def samples(viewer: Viewer, session: str) -> list[Sample]:
    """Return the samples of all runs but that of the attempts, and those of the package.

    Args:
        viewer: with the runs.
        session: slug of the run of the attempts.
    """
    others = (run for slug, run in viewer.runs.items() if slug != session)
    return [*(sample for run in others for sample in _of_run(run)), *package_samples()]


def find_sample(viewer: Viewer, key: str) -> Sample:
    """Return a sample by its key.

    Raises:
        KeyError: there is none.
    """
    known = _package().get(key)
    if known is None:
        known = next((sample for run in viewer.runs.values() for sample in _of_run(run) if sample.key == key), None)
    if known is None:
        raise KeyError(key)
    return known


@cache
def package_thumbnail(key: str) -> bytes:
    """Return the thumbnail of an image of the package as WebP.

    Raises:
        KeyError: there is no such image.
    """
    return thumbnail_bytes(_package()[key].load())


def _package() -> dict[str, Sample]:
    return {sample.key: sample for sample in package_samples()}


@cache
def package_samples() -> tuple[Sample, ...]:
    """Return tasks of the sticker world, which the shipped policy knows, and photographs."""
    tasks = [StickerWorld().task(place, "heldout", family) for place, family in enumerate(FAMILIES)]
    found = [
        Sample(f"sticker-{place}", "Stickers", task.instruction, task.instruction, partial(load_image, task.images[0]))
        for place, task in enumerate(tasks)
    ]
    photos = [photo for split in PHOTOS.values() for photo in split]
    return (
        *found,
        *(
            Sample(f"photo-{at}", "Photographs", "", p.subject, partial(load_photo, p.file))
            for at, p in enumerate(photos)
        ),
    )


def _of_run(run: OpenRun) -> Iterator[Sample]:
    try:
        run.up_to_date(_SECONDS)
        rows, links = run.index.query(_SQL), run.links()
    except (AgentFlyError, OSError):  # a run that is gone has no samples
        return
    count = 0
    for row in rows:
        store, source = run.images(row["part"]), row["source"]
        if source in store and count < _MOST_OF_RUN:
            count += 1
            key, words = f"{run.run.slug}-{row['n']}", row["instruction"]
            thumb = links.thumb(row["part"], source)
            yield Sample(key, run.run.name, words, words or "image", partial(store.get, source), thumb)
