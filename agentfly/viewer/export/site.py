"""The pages of an export: which there are, and each of them as HTML. They are those of the server, with other links."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote

from agentfly.errors import AgentFlyError
from agentfly.evaluation.hub.secrets import environment_secrets, setting_secrets
from agentfly.files import read_yaml
from agentfly.redaction import redact
from agentfly.viewer.export.assets import ExportLinks, Places
from agentfly.viewer.export.choose import Choice, choose_chains
from agentfly.viewer.export.subset import subset
from agentfly.viewer.groups.listed import SIZE, GroupFilters
from agentfly.viewer.index import Filters, Index
from agentfly.viewer.links import Links, ServerLinks
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.pages import chain, chains, group, iterations, overview
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
        self._stores = cache(run.images)  # pages name thousands of images, in few parts
        self._secrets = tuple({*environment_secrets(), *_secrets_of(run)})
        if run.run.systems:
            self.choice, self.sheets = Choice((), 0), tuple(_generated_sheets(run))
            return
        run.index.refresh()
        self.choice = choose_chains(run.index, most, self._spells_a_key)
        viewer, state = Viewer([]), run.index.state()
        picked = subset(run, self.choice.chains, folder)
        moments = _whole_groups(run.index, picked.index)
        grouped = subset(picked, [n for numbers in moments.values() for n in numbers], folder)

        def sheet(shown: OpenRun, template: str, make: Callable[[Context], Page], file: str, *keys: str) -> Sheet:
            def page(links: Links) -> Page:
                return make(Context(viewer, shown, state, links, settings))

            return Sheet(keys or (file,), f"{file}.html", f"{template}.html.jinja", page)

        rows = Filters(size=_ALL_ROWS)
        # What the run has learned, it has learned from all chains.
        sheets = [sheet(run, "overview", overview.page, "index", "")]
        sheets.append(sheet(picked, "chains", partial(chains.page, filters=rows), "chains"))
        for n in self.choice.chains:
            sheets.append(sheet(picked, "chain", partial(chain.page, n=n, filters=rows), f"chains/{n}"))
        for number in range(max(1, -(-len(moments) // SIZE))):
            listed = GroupFilters(chains="all", page=number + 1)
            keys: tuple[str, ...] = ("groups",) if number == 0 else ()
            keys += (f"groups?{listed.to_query()}",)
            make = partial(group.list_page, filters=listed)
            sheets.append(sheet(grouped, "groups", make, f"groups-{number + 1}" if number else "groups", *keys))
        taken: set[str] = set()
        for number, (task, step, part) in enumerate(moments):
            names = [_KEYS.group(task, step, part), _KEYS.group(task, step), _KEYS.group(task)]
            keys = tuple(name for name in names if name not in taken)
            taken.update(keys)
            make = partial(group.page, task=task, step=step, part=part)
            sheets.append(sheet(grouped, "group", make, f"groups/{number}", *keys))
        self.sheets = tuple(sheets)

    @property
    def note(self) -> str:
        """What the export has."""
        if self.run.run.systems:
            return f"{len(self.sheets)} of {len(records(self.run.run))} runs of this folder."
        return self.choice.words()

    def document(self, sheet: Sheet, places: Places) -> Document | None:
        """Return a page; None, with a warning, where its chain cannot be read any more."""
        links = ExportLinks(run=self.run, stores=self._stores, places=places, here=sheet.file, note=self.note)
        try:
            html = redact(sheet.make(links).render(sheet.template), *self._secrets)
        except (AgentFlyError, KeyError) as fault:
            logger.warning("%s is left out: %s", sheet.file, fault)
            return None
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


class _Keys(ServerLinks):
    """The names that links have for pages."""

    def page(self, name: str) -> str:
        """Return the name."""
        return name


_KEYS = _Keys("")


def _whole_groups(index: Index, picked: Index) -> dict[tuple[str, int | None, int], list[int]]:
    """Return the chains of each task at one moment, where all of them were picked: others have no true means.

    The newest moment of a task comes first, since it is the one that other pages lead to.
    """
    sql = "SELECT task, step, part, group_concat(n) AS numbers FROM chains GROUP BY task, step, part ORDER BY step DESC"
    numbers = {(row["task"], row["step"], row["part"]): row["numbers"] for row in picked.query(sql)}
    whole = {(row["task"], row["step"], row["part"]): row["numbers"] for row in index.query(sql)}
    return {
        moment: [int(n) for n in found.split(",")]
        for moment, found in numbers.items()
        if found.count(",") == whole[moment].count(",")
    }


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
