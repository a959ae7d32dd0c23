"""The material of people's verdicts: public benchmarks of rewards, and the ratings of the viewer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from PIL import Image

from agentfly.datasets.public.preferences import Preference
from agentfly.errors import ImageError
from agentfly.evaluation.calibration.cases import Item, Material, Pair
from agentfly.evaluators import EditSample
from agentfly.images import ImageSource, load_image
from agentfly.images.store import handle_of


def people_material(name: str, verdicts: Iterable[Preference]) -> Material:
    """Return the results that people judged, each once, and the pairs that they compared.

    Args:
        name: of the data, in tables.
        verdicts: in any order.
    """
    items, pairs = dict[str, Item](), list[Pair]()
    for verdict in verdicts:
        group = f"{name}/{verdict.task}"
        ids = [f"{group}/{key}" for key, _ in verdict.results]
        for identity, (key, image) in zip(ids, verdict.results, strict=True):
            known = items.get(identity)
            worth = None if known is None else known.worth
            worth = worth if verdict.score is None else verdict.score / 100.0
            items[identity] = Item(identity, "people", group, name, partial(_sample, verdict, key, image), worth)
        if verdict.preferred is not None:
            comparison = f"{name}/{verdict.comparison}" if verdict.comparison else ""
            kind = f"{name}: {verdict.task_type}" if verdict.task_type else name
            pairs.append(Pair(ids[0], ids[1], verdict.preferred, name, kind, group, comparison))
    return Material(list(items.values()), pairs)


def _sample(verdict: Preference, key: str, image: ImageSource) -> EditSample:
    hashed = bool(verdict.source_handle)
    source = _opened(verdict.source, verdict.source_handle)
    return EditSample(verdict.instruction, source, _opened(image, key if hashed else ""))


def _opened(source: ImageSource, handle: str) -> Image.Image:
    image = load_image(source)
    if handle and handle_of(image) != handle:
        raise ImageError(f"{str(source)!r} is not the image that was rated: it has changed since")
    return image
