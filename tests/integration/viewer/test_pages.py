"""Every page in light and dark, on a wide and a narrow window: no errors, nothing cut off, readable for everybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Browser, Page

from tests.integration.viewer.browser import BROKEN_IMAGE, THEMES, WIDTHS, findings, sideways, watched
from tests.integration.viewer.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PAGES = (
    "/",
    "/runs/training/",
    "/runs/training/chains",
    "/runs/training/chains?stop=max_turns&sort=score&down=1",
    "/runs/training/chains?text=nothing+has+these+words",
    "/runs/training/groups",
    "/runs/training/group?task=train-look-0-2",
    "/runs/training/chains/1",
    "/runs/training/rate",
    "/runs/training/rate?mode=single",
    "/runs/before/",
    "/runs/before/chains",
    "/runs/hostile/",
    "/runs/hostile/chains",
    "/runs/hostile/groups",
    "/runs/hostile/chains/1",
    "/runs/hostile/rate?mode=single",
    "/compare?a=before&b=after",
)


async def look(browser: Browser, address: str, act: Callable[[Page], Awaitable[object]] | None = None) -> None:
    """Look at a page in both themes, and in each at both widths; it is loaded once at each."""
    for theme, widths in zip(THEMES, (WIDTHS, WIDTHS[::-1]), strict=True):
        async with watched(browser, theme=theme, width=widths[0]) as seen:
            seen.expected += [BROKEN_IMAGE] if "/hostile/" in address else []
            answer = await seen.page.goto(address)
            assert answer is not None
            assert answer.status == 200
            if act is not None:
                await act(seen.page)
            assert await sideways(seen.page) <= 0, (theme, widths[0])
            assert await findings(seen.page) == [], (theme, widths[0])
            await seen.page.set_viewport_size({"width": widths[1], "height": 900})
            assert await sideways(seen.page) <= 0, (theme, widths[1])


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_sound_in_every_theme_and_width(browser: Browser, site: Site, path: str) -> None:
    await look(browser, site(path))
