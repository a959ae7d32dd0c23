"""Every page in light and dark, on a wide and a narrow window: no errors, nothing cut off, readable for everybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Browser, Page

from tests.integration.viewer.browser import THEMES, WIDTHS, findings, sideways, watched
from tests.integration.viewer.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PAGES = (
    "/",
    "/runs/training/",
    "/runs/training/chains",
    "/runs/training/chains?stop=max_turns&sort=score&down=1",
    "/runs/training/chains?text=nothing+has+these+words",
    "/runs/before/",
    "/runs/before/chains",
    "/runs/hostile/",
    "/runs/hostile/chains",
)
# Axe finds the same at every width, but colours differ by theme.
_AXE = {("light", 1280), ("dark", 390)}


async def look(browser: Browser, address: str, act: Callable[[Page], Awaitable[object]] | None = None) -> None:
    """Look at a page in every theme and width."""
    for theme in THEMES:
        for width in WIDTHS:
            async with watched(browser, theme=theme, width=width) as seen:
                answer = await seen.page.goto(address)
                assert answer is not None
                assert answer.status == 200
                if act is not None:
                    await act(seen.page)
                assert await sideways(seen.page) <= 0, (theme, width)
                if (theme, width) in _AXE:
                    assert await findings(seen.page) == [], (theme, width)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_sound_in_every_theme_and_width(browser: Browser, site: Site, path: str) -> None:
    await look(browser, site(path))
