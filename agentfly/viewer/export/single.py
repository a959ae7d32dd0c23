"""An export as one file: it opens from a disk, and needs nothing but a browser.

Each page lies in it compressed, each image once, as WebP and as large as the file may become. The address has the page:
`report.html?chains/12`. The script of the file (`web/static/report.js`) unpacks the page and its images, and runs the
scripts that the page has on the server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

from agentfly.errors import AgentFlyError, ConfigError
from agentfly.files import written_whole
from agentfly.viewer.export.assets import Asset
from agentfly.viewer.export.scripts import bundle
from agentfly.viewer.export.site import Document, Site
from agentfly.viewer.thumbnails import thumbnail_bytes
from agentfly.viewer.web.render import STATIC

logger = logging.getLogger(__name__)

MARK = '<meta name="generator" content="agentfly view --export">'
LARGEST = 9_900_000  # bytes of the file
LARGEST_PAGES = 6_000_000  # bytes of its pages: what is left is for images
_SIDE = 1024  # pixels of an image at most
_LEAST = 1500  # bytes of an image: fewer show nothing
_QUALITY = 75
OnProgress = Callable[[str, int, int], None]


def write_file(site: Site, path: Path, on_progress: OnProgress) -> str:
    """Write the file and return what had to be left out of it; "" for nothing.

    Args:
        site: the pages.
        path: of the file. One that is there is replaced if it is an export.
        on_progress: called with "pages" or "images" and the number of them, done and in total.

    Raises:
        ConfigError: the path holds something else.
    """
    if path.exists() and not (path.is_file() and MARK.encode() in path.read_bytes()[:2000]):
        raise ConfigError(f"{str(path)!r} is there and is no export: give another name, or remove it")
    places = _Places(site)
    blocks, left_out, size = [], 0, 0
    scripts: dict[str, None] = {}
    styles: dict[str, None] = {}
    for number, sheet in enumerate(site.sheets, 1):
        document = site.document(sheet, places)
        if document is None:
            left_out += 1
            continue
        block = _page_block(sheet.file.removesuffix(".html"), document)
        if size + len(block) > LARGEST_PAGES and number > 2:
            left_out += 1
            continue
        size += len(block)
        blocks.append(block)
        scripts |= dict.fromkeys(document.scripts)
        styles |= dict.fromkeys(document.styles)
        on_progress("pages", number, len(site.sheets))
    frame = _frame(list(scripts), list(styles), "".join(blocks))
    images = _images(list(places.images.values()), LARGEST - len(frame.encode()), on_progress)
    with written_whole(path) as partial:
        partial.write_text(frame.replace("<!--images-->", images, 1), encoding="utf-8")
    return f"{left_out} pages were left out: they are damaged, or too large for one file" if left_out else ""


class _Places:
    """Addresses in the file: pages by query, images by number."""

    def __init__(self, site: Site) -> None:
        self._pages = {key: sheet.file.removesuffix(".html") for sheet in site.sheets for key in sheet.keys}
        self.images: dict[str, Asset] = {}
        self._numbers: dict[str, int] = {}

    def page(self, key: str, here: str) -> str:
        """Return the query of a page."""
        return f"?{self._pages[key]}" if key in self._pages else ""

    def static(self, name: str, here: str) -> str:
        """Return the name of a file, all of which are in this one."""
        return name

    def image(self, asset: Asset, here: str, *, whole: bool) -> str:
        """Return the mark that the script replaces by the image."""
        self.images.setdefault(asset.name, asset)
        return f"image:{self._numbers.setdefault(asset.name, len(self._numbers))}"


def _page_block(name: str, document: Document) -> str:
    page = {"title": document.title, "body": document.body, "scripts": document.scripts, "styles": document.styles}
    packed = zlib.compress(json.dumps(page, ensure_ascii=False).encode(), 9)
    return f'<script type="text/plain" data-page="{name}">{base64.b64encode(packed).decode()}</script>\n'


def _images(assets: list[Asset], most: int, on_progress: OnProgress) -> str:
    """Return the blocks of all images, each with an equal share of the bytes that those before it have left."""
    blocks = []
    for place, asset in enumerate(assets):
        head, tail = f'<script type="text/plain" data-image="{place}">', "</script>\n"
        share = most // (len(assets) - place) - len(head) - len(tail)
        try:
            data = thumbnail_bytes(asset.image(), _SIDE, max(_LEAST, share * 3 // 4 - 3))
        except AgentFlyError as fault:
            logger.warning("%s", fault)
            continue
        block = head + base64.b64encode(data).decode() + tail
        if len(block) <= most:
            blocks.append(block)
            most -= len(block)
        on_progress("images", place + 1, len(assets))
    return "".join(blocks)


def _frame(scripts: list[str], styles: list[str], pages: str) -> str:
    """Return the file without images; its policy lets nothing run but its own script, and nothing load."""
    code = bundle(name for name in scripts) + (STATIC / "report.js").read_text(encoding="utf-8")
    sheets = {name: (STATIC / name).read_text(encoding="utf-8") for name in styles if name.endswith(".css")}
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {' '.join(_hash(text) for text in sheets.values())}",
            f"script-src {_hash(code)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    tags = "".join(f'<style data-sheet="{name}" media="not all">{text}</style>\n' for name, text in sheets.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{MARK}\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>agentfly</title>\n'
        f"{tags}{pages}<!--images--></head>\n<body>\n<noscript>This report needs JavaScript.</noscript>\n"
        f"<script>{code}</script>\n</body>\n</html>\n"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
