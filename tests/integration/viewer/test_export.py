"""An export opens from disk: no server, no request, no error, and small enough to send."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from agentfly.viewer.export.folder import write_folder
from agentfly.viewer.export.site import Site
from agentfly.viewer.opened import OpenRun
from agentfly.viewer.settings import ViewerSettings
from tests import programs
from tests.integration.viewer.browser import THEMES, WIDTHS, findings, sideways, watched
from tests.unit.viewer.made import line, run_of

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


def export(run: Path, to: Path) -> None:
    """Export a run by the command."""
    done = programs.run("-m", "agentfly.cli", "view", str(run), "--no-open", "--export", str(to), timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["training", "hostile"])
async def test_one_file_has_everything(
    browser: Browser, tmp_path: Path, training: Path, hostile: Path, name: str
) -> None:
    report = tmp_path / "report.html"
    export({"training": training, "hostile": hostile}[name], report)
    assert report.stat().st_size < 10_000_000
    for theme, width in zip(THEMES, WIDTHS, strict=True):
        async with watched(browser, theme=theme, width=width) as seen:
            await seen.page.goto(report.as_uri())
            await expect(seen.page.get_by_role("main").first).to_be_visible()
            assert await sideways(seen.page) <= 0
            assert await findings(seen.page) == []
            outside = [url for url in seen.requests if not url.startswith((report.as_uri(), "data:", "blob:"))]
            assert outside == []


async def test_a_folder_has_pages_with_full_images(browser: Browser, tmp_path: Path, training: Path) -> None:
    folder = tmp_path / "site"
    export(training, folder)
    async with watched(browser) as seen:
        page = seen.page
        await page.goto((folder / "index.html").as_uri())
        await page.get_by_role("navigation").get_by_role("link", name="Chains").first.click()
        await page.locator("#rows .open").first.click()
        await expect(page.locator("[data-turn]").first).to_be_attached()
        assert "/chains/" in page.url
        widths = await page.locator("main img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert widths
        assert all(widths)
        assert all(url.startswith(folder.as_uri()) for url in seen.requests if not url.startswith(("data:", "blob:")))


@pytest.mark.parametrize("form", ["report.html", "report"])
async def test_the_table_of_an_export_is_filtered_and_sorted_without_a_server(
    browser: Browser, tmp_path: Path, training: Path, form: str
) -> None:
    export(training, tmp_path / form)
    address = f"{(tmp_path / form).as_uri()}{'?chains' if form.endswith('html') else '/chains.html'}"
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(address)
        shown = page.locator("#rows tr:not([hidden])")
        everything = await shown.count()
        await expect(page.locator("#sifted")).to_have_text(f"{everything} of {everything} chains")
        # By type, with the number that the choice names; then by words, too.
        choice = page.get_by_label("Task type").locator("option").nth(1)
        some = int(re.findall(r"\((\d+)\)", await choice.inner_text())[0])
        value = await choice.get_attribute("value")
        await page.get_by_label("Task type").select_option(value)
        await expect(shown).to_have_count(some)
        assert 0 < some < everything
        await page.keyboard.press("/")
        await page.keyboard.type("no chain says this")
        await expect(shown).to_have_count(0)
        await page.get_by_label("Text").fill("")
        # By a column, both ways.
        head = page.locator("th", has=page.get_by_role("button", name="Score"))
        for way in ("descending", "ascending"):
            await page.get_by_role("button", name="Score").click()
            await expect(head).to_have_attribute("aria-sort", way)
            texts = await shown.evaluate_all("rows => rows.map(row => row.dataset.score)")
            scores = [float(text) for text in texts if text]
            assert scores == sorted(scores, reverse=way == "descending")
            assert texts[: len(scores)] == [text for text in texts if text], "rows without a score come last"
        # The address keeps all of it; the cursor goes over what is shown.
        await page.reload()
        await expect(head).to_have_attribute("aria-sort", "ascending")
        await expect(shown).to_have_count(some)
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        await expect(shown.nth(1)).to_have_class(re.compile(r"\bat\b"))
        await page.goto(f"{address}#type=nobody&sort=nothing&down=x")
        await expect(shown).to_have_count(everything)


async def test_a_thousand_rows_are_filtered_at_once(browser: Browser, tmp_path: Path) -> None:
    lines = [line(f"c{n}", score=float(n % 101), instruction=f"Remove star no{n}x", step=n) for n in range(1000)]
    site = Site(OpenRun(run_of(tmp_path / "run", *lines)[0]), ViewerSettings(), 1000, tmp_path)
    site.sheets = site.sheets[:2]  # overview and table: the pages of a thousand chains take long
    write_folder(site, tmp_path / "report", lambda *_: None)
    async with watched(browser) as seen:
        await seen.page.goto((tmp_path / "report" / "chains.html").as_uri())
        await expect(seen.page.locator("#sifted")).to_have_text("1000 of 1000 chains")
        await seen.page.get_by_label("Text").fill("STAR no99")
        await expect(seen.page.locator("#sifted")).to_have_text("11 of 1000 chains")
        milliseconds = await seen.page.evaluate(
            "() => { const start = performance.now(); document.querySelector('[data-sort=step]').click();"
            " return performance.now() - start; }"
        )
        assert milliseconds < 1000
