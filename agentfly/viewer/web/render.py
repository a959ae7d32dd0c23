"""Render pages. Everything that a policy, a data set or a path wrote is escaped by the templates."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.viewer.charts import number_text
from agentfly.viewer.links import Links
from agentfly.viewer.runs.folder import RunFolder

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


@dataclass(frozen=True)
class Page:
    """What every page has.

    Attributes:
        title: of the page.
        links: addresses.
        run: that the page is about; None for a page of no run.
        runs: all runs of the viewer, for the menu.
        here: name of the page in the menu: "", "chains", "rate", ….
        revision: of the run as the page shows it; None for a page that does not change.
        values: for the page's own template.
        can_try: the viewer has a policy, so that the menu has the page Try.
        poll: address of the revision; "" for that of the run.
    """

    title: str
    links: Links
    run: RunFolder | None = None
    runs: tuple[RunFolder, ...] = ()
    here: str | None = None
    revision: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    can_try: bool = False
    poll: str = ""

    def render(self, template: str) -> str:
        """Return the page in HTML."""
        return templates().get_template(template).render(page=self, link=self.links, **self.values)


@cache
def templates() -> Environment:
    """Return the environment of the templates; it escapes all values."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number_text, "clip": clip, "ago": duration, "sentence": sentence}
    environment.globals |= {"success": SUCCESS}
    return environment


def page_response(page: Page, template: str, status: int = 200) -> HTMLResponse:
    """Return a page as the server's answer. Half surrogate pairs, which UTF-8 has not, are replaced."""
    html = page.render(template).encode("utf-8", "replace")
    return HTMLResponse(html, status)


def clip(text: str, most: int = 200) -> str:
    """Return the beginning of a long text, with the number of characters that are left out."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more)"


def duration(seconds: float) -> str:
    """Return seconds in words, such as "3.2 s" or "4 min"."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def sentence(text: str) -> str:
    """Return a text that begins with a capital letter; the rest stays as it is."""
    return text[:1].upper() + text[1:]
