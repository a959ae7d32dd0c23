"""Make the screenshots of the viewer on the pages: docs/images/viewer_*.png.

    .venv/bin/python scripts/screenshots.py                  # of a run that is made up
    .venv/bin/python scripts/screenshots.py runs/quickstart  # of a run of yours
    .venv/bin/python scripts/screenshots.py --all --out /tmp/look    # every page, both themes, two widths: to look at

It needs a Chromium: scripts/install_browser.sh.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402
from playwright.async_api import Browser, Page, async_playwright  # noqa: E402

from tests.integration.viewer.browser import THEMES, WIDTHS, Theme, find_browser, launch  # noqa: E402
from tests.integration.viewer.site import viewing  # noqa: E402
from tests.viewer_runs import TrainingPlan, training_run  # noqa: E402

LARGEST = 250_000  # bytes of a screenshot
# A chain worth looking at: it used several tools, and both edits succeeded.
CHAIN = "chains?type=two_step&stop=answered&score_from=95&sort=calls&down=1"


@dataclass(frozen=True)
class Shot:
    """A screenshot.

    Attributes:
        name: of the file, after `viewer_`.
        path: of the page, below that of the run.
        opens: the link to follow from there; "" for the page itself.
        height: of the window in pixels.
    """

    name: str
    path: str
    opens: str = ""
    height: int = 860


SHOTS = (Shot("overview", ""), Shot("chain", CHAIN, "#rows .open", 1300))
ALL = (
    *SHOTS,
    Shot("chains", "chains"),
    Shot("nothing", "chains?text=no+chain+says+this"),
    Shot("groups", "groups"),
    Shot("group", "groups?sort=spread&down=1", ".groups .open"),
    Shot("rate", "rate"),
    Shot("error", "chains/999999"),
)


async def take(browser: Browser, address: str, shot: Shot, theme: Theme = "light", width: int = 1280) -> Image.Image:
    """Return a screenshot of a page as a person sees it first."""
    context = await browser.new_context(
        viewport={"width": width, "height": shot.height}, color_scheme=theme, reduced_motion="reduce"
    )
    context.set_default_timeout(120_000)
    try:
        page = await context.new_page()
        await page.goto(f"{address}{shot.path}")
        if shot.opens:
            await page.locator(shot.opens).first.click()
            await page.wait_for_load_state("load")
        await _images_loaded(page)
        return Image.open(io.BytesIO(await page.screenshot(animations="disabled")))
    finally:
        await context.close()


async def _images_loaded(page: Page) -> None:
    await page.wait_for_function(
        "() => [...document.images].every(image => image.complete || image.getBoundingClientRect().top > innerHeight)"
    )


def save(image: Image.Image, path: Path) -> None:
    """Write an image with a palette of its own, of as many colours as `LARGEST` leaves room for."""
    for colours in (256, 128, 64):
        file = io.BytesIO()
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= LARGEST:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())


def versions(every: bool) -> Iterator[tuple[Shot, Theme, int, str]]:
    """Yield the screenshots to take, with the names of their files."""
    if not every:
        for shot in SHOTS:
            yield shot, "light", WIDTHS[0], f"viewer_{shot.name}.png"
        return
    for shot in ALL:
        for theme in THEMES:
            for width in WIDTHS:
                yield shot, theme, width, f"{shot.name}_{theme}_{width}.png"


async def screenshots(address: str, out: Path, every: bool) -> None:
    """Take the screenshots of a run that is served at an address, which ends with a slash."""
    found = find_browser()
    if found is None:
        sys.exit("no Chromium and no Chrome here: scripts/install_browser.sh installs one, or says how")
    async with async_playwright() as playwright:
        browser = await launch(playwright, found)
        for shot, theme, width, name in versions(every):
            save(await take(browser, address, shot, theme, width), out / name)
            print(out / name)
        await browser.close()


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a run; one is made up without it")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the screenshots")
    parser.add_argument("--all", action="store_true", help="every page, in both themes and two widths")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or training_run(
            Path(folder) / "runs" / "stickers",
            TrainingPlan(steps=16, groups=4, chains=4, tasks=16, held_out=40, composed=True),
        )
        with viewing(run) as site:
            _, headers, _ = site.ask("/")
            asyncio.run(screenshots(site(headers["location"]), arguments.out, arguments.all))


if __name__ == "__main__":
    main()
