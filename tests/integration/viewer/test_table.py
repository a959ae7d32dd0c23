"""The table of chains as people use it: filters that stay in the address, an order, a cursor, and the keys."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, Page, expect

from tests.integration.viewer.browser import watched
from tests.integration.viewer.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

TABLE = "/runs/training/chains"


async def total(page: Page) -> int:
    """Return the number of chains that the filters let through."""
    return int(await page.locator("#summary").get_attribute("data-total") or -1)


async def test_words_filter_at_once_and_stay_in_the_address(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(site(TABLE))
        everything = await total(page)
        await page.keyboard.press("/")
        await page.keyboard.type("biggest sticker")
        await expect(page.locator("#summary")).not_to_have_attribute("data-total", str(everything))
        some = await total(page)
        assert 0 < some < everything
        assert "text=biggest+sticker" in page.url
        await page.reload()
        assert await total(page) == some
        await expect(page.get_by_label("Text")).to_have_value("biggest sticker")
        await page.get_by_label("Text").fill("no chain says this")
        await expect(page.locator("#found")).to_contain_text("No chain matches")
        await expect(page.locator("#rows tr")).to_have_count(0)


async def test_a_facet_tells_how_many_it_lets_through(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(site(TABLE))
        everything = await total(page)
        choice = page.locator("#facets a", has_text=re.compile(r"max.turns|no tool call")).first
        count = int(await choice.locator("b").inner_text())
        await choice.click()
        await expect(page.locator("#summary")).to_have_attribute("data-total", str(count))
        assert 0 < count < everything
        stops = set(await page.locator("#rows .stop").all_inner_texts())
        assert len(stops) == 1
        await page.locator(".chip").first.click()
        await expect(page.locator("#summary")).to_have_attribute("data-total", str(everything))
        await page.go_back()
        await expect(page.locator("#summary")).to_have_attribute("data-total", str(count))


async def test_a_column_sorts_both_ways(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(site(TABLE))
        orders: list[list[float]] = []
        for _ in range(2):
            await page.locator("thead a", has_text="Score").click()
            head = page.locator("thead th", has_text="Score")
            await expect(head).to_have_attribute("aria-sort", re.compile("descending" if not orders else "ascending"))
            texts = await page.locator("#rows tr").evaluate_all(
                "rows => rows.map(row => row.cells[3].innerText.trim())"
            )
            orders.append([float(text) for text in texts if re.fullmatch(r"[\d.]+", text)])
        assert orders[0] == sorted(orders[0], reverse=True)
        assert orders[1] == sorted(orders[1])
        assert orders[0][0] > orders[1][0]


async def test_keys_move_open_and_come_back(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(site(f"{TABLE}?sort=score&down=1"))
        for key in ("j", "j", "j", "k"):
            await page.keyboard.press(key)
        await expect(page.locator("#rows tr").nth(1)).to_have_class(re.compile(r"\bat\b"))
        number = await page.locator("#rows tr").nth(1).get_attribute("data-n")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(rf"/chains/{number}\b"))
        await page.go_back()
        await expect(page.locator("#rows tr").first).to_be_visible()
        await page.keyboard.press("?")
        await expect(page.locator("#help")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#help")).not_to_be_visible()
        await page.keyboard.press("j")
        await page.keyboard.press("g")
        await expect(page).to_have_url(re.compile("/group"))
