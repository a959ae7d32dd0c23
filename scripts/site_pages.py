"""Hooks of mkdocs: make pages of the documents outside docs/, and keep every link right on the site.

In the sources a link is a path from file to file, as a code host and an editor follow it. Some documents have to lie
outside docs/, such as README.md. They become pages of the site here, and links to and from them are rewritten.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Documents by their path in the repository, and their pages.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "AGENTS.md": "agents.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "data/README.md": "sample_data.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents outside docs/ to the files of the site."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite the links of a page."""
    return rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, page: str) -> str:
    """Return a page with links between files of the repository turned into links between pages of the site.

    A link to a file that is no page stays as it is, and a strict build ends with its name.

    Args:
        markdown: text of the page.
        page: path of the page on the site, such as `index.md`.
    """
    folder = posixpath.dirname(_SOURCES.get(page, f"docs/{page}"))

    def rewrite(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        if target in PAGES:
            target = PAGES[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return found[0]
        return f"]({posixpath.relpath(target, posixpath.dirname(page) or '.')}"

    return _LINK.sub(rewrite, markdown)
