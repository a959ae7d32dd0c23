"""Runs for the tests of exports."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from agentfly.images import ImageStore
from agentfly.viewer.index import Index
from agentfly.viewer.opened import OpenRun
from tests.unit.viewer.made import line, run_of

HOSTILE = '"><script>alert(1)</script><!--images-->'


def run_with(folder: Path, *lines: bytes) -> OpenRun:
    """Return a run of these lines, its index up to date."""
    run = OpenRun(run_of(folder, *lines)[0])
    run.index.refresh()
    return run


def run_with_images(folder: Path, count: int, side: int = 64, words: str = "Remove the star") -> OpenRun:
    """Return a run of chains that have a result of noise each: no image is smaller than it looks."""
    store = ImageStore(folder / "images")
    lines = []
    for number in range(count):
        image = Image.effect_noise((side, side), 80).convert("RGB")
        lines.append(line(f"c{number}", final_image=store.put(image), instruction=words))
    return run_with(folder, *lines)


def chosen_keys(index: Index, numbers: Sequence[int]) -> list[str]:
    """Return the keys of chains."""
    return [index.row(n).key for n in numbers]


def quiet(part: str, done: int, total: int) -> None:
    """Show no progress."""


def packed_pages(html: str) -> dict[str, dict[str, object]]:
    """Return the pages of an export in one file, by name."""
    blocks = re.findall(r'<script type="text/plain" data-page="([^"]*)">([^<]*)</script>', html)
    return {name: json.loads(zlib.decompress(base64.b64decode(text))) for name, text in blocks}
