"""The results of an agent, image by image: one HTML file that opens anywhere, without network or script.

Cards are sorted worst first, or by task type; a radio button switches, in CSS alone. What a policy or a data set wrote
is hostile text: the template escapes everything, and the page forbids itself to load anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.files import write_text
from agentfly.viewer.report import image_uri, page_templates

_SIDE = 224
_MAX_TEXT = 600


@dataclass(frozen=True)
class GalleryCard:
    """One task; images are data URIs, see `thumbnail`.

    Attributes:
        id, task_type, instruction: of the task.
        score: of the headline evaluator (0 to 100), None when it gave none.
        scores: what each evaluator said, in words.
        feedback: of the headline evaluator.
        source, result, target: images, None where there is none.
        steps: captions and images between source and result.
        ending: why it ended.
        facts: turns, calls and time, in words.
        errors: what went wrong.
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
    """A small image as a data URI."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    return image_uri(small)


def write_gallery(path: Path, title: str, cards: Iterable[GalleryCard], *, total: int) -> Path:
    """Write the page as one HTML file with all images inside.

    Args:
        path: of the HTML file.
        title: of the page.
        cards: worst first.
        total: tasks of the run; the page says so when it does not show all of them.

    Returns:
        The path.
    """
    shown = list(cards)
    types = sorted({card.task_type for card in shown})
    # The place of a card when cards stand by task type, worst first within it; each type's heading goes before them.
    by_type = sorted(range(len(shown)), key=lambda index: (types.index(shown[index].task_type), index))
    places = {index: place + types.index(shown[index].task_type) + 1 for place, index in enumerate(by_type)}
    headings = [(name, min(places[i] for i, card in enumerate(shown) if card.task_type == name) - 1) for name in types]
    environment = page_templates()
    environment.filters["clip"] = lambda text: text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} …"
    html = environment.get_template("gallery.html.jinja").render(
        title=title, cards=shown, places=places, headings=headings, total=total, success=SUCCESS
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, html)
