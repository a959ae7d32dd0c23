"""An export opens from disk: no server, no request, no error, and small enough to send."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests import programs
from tests.integration.viewer.browser import THEMES, WIDTHS, findings, sideways, watched

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
