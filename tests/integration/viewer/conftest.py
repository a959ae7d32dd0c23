"""One browser for all tests of the viewer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.integration.viewer.browser import find_browser, launch

MISSING = "no Chromium and no Chrome here: scripts/install_browser.sh installs one, or says how"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The browser; the test is skipped where there is none, and fails on CI."""
    path = find_browser()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    async with async_playwright() as playwright:
        started = await launch(playwright, path)
        yield started
        await started.close()
