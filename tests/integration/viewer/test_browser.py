"""The watch over a page sees what it is for: without it, every other test of the viewer would pass on a broken page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.integration.viewer.browser import findings, sideways, watched

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ("<script>console.error('a fault')</script>", "console: a fault"),
        ("<script>setTimeout(() => { throw new Error('thrown') })</script>", "error of a script: thrown"),
        ("<img src='http://example.com/a.png'>", "a request to another machine: http://example.com/a.png"),
        ("<img src='http://127.0.0.1:9/a.png'>", "failed: http://127.0.0.1:9/a.png"),
    ],
)
async def test_a_fault_of_a_page_fails_the_test(browser: Browser, tmp_path: Path, html: str, fault: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><title>t</title>{html}")

    async def visit(*expected: str) -> None:
        async with watched(browser) as seen:
            seen.expected += expected
            await seen.page.goto(file.as_uri())
            # The page has loaded; what its scripts put off comes before this.
            await seen.page.evaluate("new Promise(done => setTimeout(done))")

    with pytest.raises(AssertionError, match=re.escape(fault)):
        await visit()
    await visit(".")


async def test_a_page_that_nobody_can_read_is_found(browser: Browser) -> None:
    async with watched(browser, theme="dark", width=390) as seen:
        await seen.page.set_content(
            "<html lang=en><title>t</title><main><h1>h</h1><p style='color:#eee;background:#fff'>pale</p>"
            "<p style='width:600px'>wide</p><button></button></main>"
        )
        assert {finding.split(":")[0] for finding in await findings(seen.page)} == {"button-name", "color-contrast"}
        assert await sideways(seen.page) > 200
        assert await seen.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
