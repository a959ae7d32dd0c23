"""A gallery: one HTML file that needs neither network nor script, with the results of an agent image by image.

The cards come worst first or by task type; a radio button switches, in CSS alone. Text that a policy or a data set
wrote is hostile: the templates escape everything, and the pages forbid themselves to load anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from agentfly.evaluation.report.html import image_uri, page_templates
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.files import write_text

_SIDE = 224
_MAX_CAPTION = 600


@dataclass(frozen=True)
class GalleryCard:
    """A task and its result. Images are data URIs, made by `thumbnail`.

    Attributes:
        id, task_type, instruction: of the task.
        score: of the headline evaluator (0 to 100), None where it gave none.
        scores: label of each evaluator, and its score as text.
        feedback: of the headline evaluator.
        source, result, target: images, None where there is none.
        steps: captions and images between source and result.
        ending: the stop reason.
        facts: turns, calls and time as text.
        errors: of the tool calls and of the chain.
    """

    id: str
    task_type: str
    instruction: str
    score: float | None
    scores: tuple[tuple[str, str], ...] = ()
    feedback: str = ""
    source: str | None = None
    steps: tuple[tuple[str, str], ...] = ()
    result: str | None = None
    target: str | None = None
    ending: str = ""
    facts: str = ""
    errors: tuple[str, ...] = ()


def thumbnail(image: Image.Image) -> str:
    """Return an image as a data URI, at most 224 pixels wide and high."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    return image_uri(small)


def write_gallery(path: Path, title: str, cards: Iterable[GalleryCard], *, total: int) -> Path:
    """Write the page as one HTML file with all images inside.

    Args:
        path: of the HTML file; its folder is made.
        title: of the page.
        cards: worst first.
        total: tasks of the run; the page states it where it does not show all of them.

    Returns:
        The path.
    """
    shown = list(cards)
    types = sorted({card.task_type for card in shown})
    # Places of the cards sorted by task type, worst first within a type; one place before each type is its heading's.
    by_type = sorted(range(len(shown)), key=lambda index: (types.index(shown[index].task_type), index))
    places = {index: place + types.index(shown[index].task_type) + 1 for place, index in enumerate(by_type)}
    headings = [(name, min(places[i] for i, card in enumerate(shown) if card.task_type == name) - 1) for name in types]
    environment = page_templates()
    environment.filters["clip"] = lambda text: text if len(text) <= _MAX_CAPTION else f"{text[:_MAX_CAPTION]} …"
    html = environment.get_template("gallery.html.jinja").render(
        title=title, cards=shown, places=places, headings=headings, total=total, success=SUCCESS
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, html)
