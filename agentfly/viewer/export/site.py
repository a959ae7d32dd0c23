"""The pages of an export: which there are, and each of them as HTML. They are those of the server, with other links."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from agentfly.errors import AgentFlyError
from agentfly.evaluation.hub.secrets import environment_secrets, setting_secrets
from agentfly.files import read_yaml
from agentfly.redaction import redact
from agentfly.viewer.export.assets import ExportLinks, Places
from agentfly.viewer.export.choose import Choice, choose_chains
from agentfly.viewer.export.subset import subset
from agentfly.viewer.index import Filters
from agentfly.viewer.links import Links
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.pages import chain, chains, iterations, overview
from agentfly.viewer.pages.context import Context
from agentfly.viewer.runs.generated import records
from agentfly.viewer.settings import ViewerSettings
from agentfly.viewer.web import Page

logger = logging.getLogger(__name__)

MOST_RECORDS = 20  # runs of image generation of one folder
_ALL_ROWS = 10**6
_SCRIPT = re.compile(r'\s*<script type="module" src="([^"]*)"></script>')
_STYLE = re.compile(r'\s*<link rel="stylesheet" href="([^"]*)">')


@dataclass(frozen=True)
class Sheet:
    """A page of an export.

    Attributes:
        keys: the names that links have for it; the first page has "".
        file: in a folder.
        template: of the page.
        make: makes it, by links.
    """

    keys: tuple[str, ...]
    file: str
    template: str
    make: Callable[[Links], Page]


@dataclass(frozen=True)
class Document:
    """A page as HTML, its scripts and style sheets by address; they are not in the HTML."""

    title: str
    body: str
    scripts: tuple[str, ...]
    styles: tuple[str, ...]


class Site:
    """The pages of a run for an export.

    Args:
        run: its index is brought up to date.
        settings: of the viewer.
        most: chains at most.
        folder: for files that are needed until the export is written.

    Attributes:
        choice: the chains.
        sheets: all pages; that of a chain has the key `chains/N`.

    Raises:
        ConfigError: the run is gone, or its index cannot be written.
    """

    def __init__(self, run: OpenRun, settings: ViewerSettings, most: int, folder: Path) -> None:
        self.run = run
        self._secrets = tuple({*environment_secrets(), *_secrets_of(run)})
        if run.run.systems:
            self.choice, self.sheets = Choice((), 0), tuple(_generated_sheets(run))
            return
        run.index.refresh()
        self.choice = choose_chains(run.index, most, self._spells_a_key)
        picked, state, viewer = subset(run, self.choice.chains, folder), run.index.state(), Viewer([])

        def sheet(key: str, template: str, make: Callable[[Context], Page], *, all_chains: bool = False) -> Sheet:
            shown = run if all_chains else picked
            return Sheet(
                (key,),
                f"{key or 'index'}.html",
                f"{template}.html.jinja",
                lambda links: make(Context(viewer, shown, state, links, settings)),
            )

        rows = Filters(size=_ALL_ROWS)
        self.sheets = (
            # What the run has learned, it has learned from all chains.
            sheet("", "overview", overview.page, all_chains=True),
            sheet("chains", "chains", partial(chains.page, filters=rows)),
            *(sheet(f"chains/{n}", "chain", partial(chain.page, n=n)) for n in self.choice.chains),
        )

    @property
    def note(self) -> str:
        """What the export has."""
        if self.run.run.systems:
            return f"{len(self.sheets)} of {len(records(self.run.run))} runs of this folder."
        return self.choice.words()

    def document(self, sheet: Sheet, places: Places) -> Document:
        """Return a page.

        Raises:
            AgentFlyError: its chain cannot be read any more.
        """
        links = ExportLinks(run=self.run, places=places, here=sheet.file, note=self.note)
        html = redact(sheet.make(links).render(sheet.template), *self._secrets)
        # Half surrogate pairs, which no file can hold; and links to pages that are not in the export.
        html = html.encode("utf-8", "replace").decode().replace(' href=""', "")
        title, body = re.search(r"<title>(.*?)</title>", html, re.DOTALL), html.partition("<body>")[2]
        return Document(
            title[1] if title else "",
            _SCRIPT.sub("", body.rpartition("</body>")[0]),
            tuple(dict.fromkeys(_SCRIPT.findall(html))),
            tuple(dict.fromkeys(_STYLE.findall(html))),
        )

    def _spells_a_key(self, n: int) -> bool:
        """Return True if the line of a chain has a key in it: tokens spell it, too, so that none of it can be shown."""
        line = self.run.index.raw_line(n).decode("utf-8", "replace")
        return redact(line, *self._secrets) != line


def _generated_sheets(run: OpenRun) -> Iterator[Sheet]:
    for place, name in enumerate(list(records(run.run))[:MOST_RECORDS]):
        keys = (f"iterations?record={quote(name, safe='')}", *(() if place else ("", "iterations")))
        file = f"iterations-{place + 1}.html" if place else "index.html"
        yield Sheet(keys, file, "iterations.html.jinja", partial(iterations.page, run.run, name=name))


def _secrets_of(run: OpenRun) -> Iterator[str]:
    """Yield the keys that the settings of a run hold, or whose variables they name."""
    for folder in (run.run.folder, run.run.training):
        for name in ("config.yaml", "settings.json") if folder is not None else ():
            path = Path(str(folder)) / name
            if path.is_file():
                try:
                    yield from setting_secrets(read_yaml(path, "file of settings"))
                except AgentFlyError as fault:
                    logger.warning("%s", fault)
