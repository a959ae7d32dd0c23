"""An export as a folder: pages with full images, which any browser opens from a disk and any server can serve."""

from __future__ import annotations

import html
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from agentfly.errors import AgentFlyError
from agentfly.files import check_replaceable, write_text
from agentfly.viewer.export.assets import Asset
from agentfly.viewer.export.scripts import bundle
from agentfly.viewer.export.single import MARK, OnProgress
from agentfly.viewer.export.site import Document, Site
from agentfly.viewer.web.render import STATIC

logger = logging.getLogger(__name__)

MARKER = "agentfly-export.json"
# 'self' is not the disk in every browser.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src 'self' file: data:",
        "style-src 'self' file:",
        "script-src 'self' file:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
_SCRIPT = "pages.js"
# Where the script stands in a page, it runs the modules of the page.
_START = 'for (const name of document.currentScript.dataset.run.split(" ").filter(Boolean)) agentfly.need(name);\n'


def write_folder(site: Site, folder: Path, on_progress: OnProgress) -> str:
    """Write the folder and return what had to be left out of it; "" for nothing.

    Args:
        site: the pages.
        folder: replaced if it is an export or empty.
        on_progress: called with "pages" or "images" and the number of them, done and in total.

    Raises:
        ConfigError: the folder holds something else.
    """
    check_replaceable(folder, MARKER, "export")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}-{uuid4().hex[:6]}.part")
    partial.mkdir(parents=True)
    try:
        left_out = _write(site, partial, on_progress)
        _replace(folder, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return left_out


def _replace(folder: Path, partial: Path) -> None:
    """Put a finished folder in the place of another one, which is there until then."""
    old = partial.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(site: Site, folder: Path, on_progress: OnProgress) -> str:
    places, left_out = _Places(site), 0
    scripts: dict[str, None] = {}
    for number, sheet in enumerate(site.sheets, 1):
        document = site.document(sheet, places)
        if document is None:
            left_out += 1
            continue
        scripts |= dict.fromkeys(document.scripts)
        file = folder / sheet.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_page(document, places.static(_SCRIPT, sheet.file)), encoding="utf-8")
        on_progress("pages", number, len(site.sheets))
    _write_images(list(places.images.values()), folder, on_progress)
    static = folder / "static"
    static.mkdir(exist_ok=True)
    for source in (*STATIC.glob("*.css"), *STATIC.glob("*.svg")):
        shutil.copyfile(source, static / source.name)
    (static / _SCRIPT).write_text(bundle(Path(name).name for name in scripts) + _START, encoding="utf-8")
    marker = {"format": "agentfly.export/1", "run": site.run.run.name, "content": site.note}
    write_text(folder / MARKER, json.dumps(marker, indent=2, ensure_ascii=False) + "\n")
    return f"{left_out} pages were left out: they are damaged" if left_out else ""


class _Places:
    """Addresses of files, relative to the page that names them."""

    def __init__(self, site: Site) -> None:
        self._files = {key: sheet.file for sheet in site.sheets for key in sheet.keys}
        self.images: dict[str, tuple[Asset, str]] = {}

    def page(self, key: str, here: str) -> str:
        """Return the address of a page."""
        return self._from(here) + self._files[key] if key in self._files else ""

    def static(self, name: str, here: str) -> str:
        """Return the address of a style sheet or a script."""
        return f"{self._from(here)}static/{name}"

    def image(self, asset: Asset, here: str, *, whole: bool) -> str:
        """Return the address of an image."""
        file = f"images/{asset.name}.png" if whole else f"thumbs/{asset.name}.webp"
        self.images[file] = asset, file
        return self._from(here) + file

    @staticmethod
    def _from(here: str) -> str:
        return "../" * here.count("/")


def _page(document: Document, script: str) -> str:
    """Return a page as HTML."""
    sheets = "".join(f'<link rel="stylesheet" href="{address}">\n' for address in document.styles)
    run = " ".join(Path(name).name for name in document.scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{MARK}\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{document.title}</title>\n{sheets}</head>\n<body>{document.body}"
        f'<script src="{script}" data-run="{html.escape(run)}"></script>\n</body>\n</html>\n'
    )


def _write_images(assets: list[tuple[Asset, str]], folder: Path, on_progress: OnProgress) -> None:
    """Write all images, several at a time: decoders and encoders let others run."""

    def write(asset: Asset, name: str) -> None:
        file = folder / name
        try:
            data = asset.small() if name.startswith("thumbs/") else asset.data()
            file.write_bytes(data)
        except (AgentFlyError, OSError) as fault:
            logger.warning("%s is left out: %s", name, fault)

    for name in ("images", "thumbs"):
        (folder / name).mkdir(exist_ok=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, _ in enumerate(pool.map(lambda pair: write(*pair), assets), 1):
            on_progress("images", number, len(assets))
