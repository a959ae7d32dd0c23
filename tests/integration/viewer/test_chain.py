"""The page of a chain: images that are compared and enlarged when asked for, keys, and calls that run again."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, Page, expect

from tests.integration.viewer.browser import arrived, watched
from tests.integration.viewer.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

# Chains that answered, the best first: they made an image, so there is something to compare.
BEST = "/runs/training/chains?validate=0&stop=answered&tool=auto_inpaint_image&sort=score&down=1"


async def open_best(page: Page, site: Site) -> None:
    """Open the best chain from the table."""
    await page.goto(site(BEST))
    await page.locator("#rows .open").first.click()
    await arrived(page, re.compile(r"/chains/\d+"))


async def test_no_full_image_is_loaded_unasked(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        await open_best(seen.page, site)
        await seen.page.keyboard.press("End")
        assert any("/thumbs/" in address for address in seen.requests)
        assert not [address for address in seen.requests if "/images/" in address]


async def test_slider_difference_and_zoom(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await open_best(page, site)
        compare = page.locator("[data-compare]").first
        await compare.get_by_role("button", name="Slider").click()
        slider = compare.locator("input[type=range]")
        await expect(slider).to_be_visible()
        await slider.focus()
        await slider.press("Home")
        await expect(slider).to_have_value("0")
        await expect(page).to_have_url(re.compile(r"/chains/\d+"))  # the arrow keys belong to the slider now
        await compare.get_by_role("button", name="Difference").click()
        await expect(compare.locator(".stage")).to_have_attribute("data-mode", "difference")
        assert any("/images/" in address for address in seen.requests)
        await compare.get_by_role("button", name="Full size").click()
        await expect(page.locator("#zoom")).to_be_visible()
        await expect(page.locator("#zoom .zoom-read")).to_contain_text("168")
        await page.keyboard.press("Escape")
        await expect(page.locator("#zoom")).not_to_be_visible()


async def test_keys_go_from_turn_to_turn_and_chain_to_chain(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await open_best(page, site)
        first = page.url
        await page.keyboard.press("ArrowRight")
        one = await page.evaluate("document.activeElement.id")
        await page.keyboard.press("ArrowRight")
        two = await page.evaluate("document.activeElement.id")
        await page.keyboard.press("ArrowLeft")
        assert await page.evaluate("document.activeElement.id") == one != two
        await page.keyboard.press("j")
        await expect(page).not_to_have_url(first)
        await page.wait_for_load_state("load")
        await page.keyboard.press("k")
        await arrived(page, first)
        await page.keyboard.press("g")
        await expect(page).to_have_url(re.compile("/group"))


async def test_tokens_are_shaded_as_chosen(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await open_best(page, site)
        conversation = page.locator(".conversation")
        colours = set()
        for shade in ("mask", "advantage", "logprob", "none"):
            await page.locator(f"input[name=shade][value={shade}]").check()
            await expect(conversation).to_have_attribute("data-shade", shade)
            colours.add(
                await page.locator("[data-turn] .stream, [data-turn] .stream *").evaluate_all(
                    "all => all.map(one => getComputedStyle(one).backgroundColor).join()"
                )
            )
        assert len(colours) >= 3


async def test_calls_run_again_and_give_the_same_images(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await open_best(page, site)
        await page.locator("button.rerun").first.click()
        await expect(page.locator(".call .rerun-result").first).to_contain_text("Equal:")
        await page.get_by_role("button", name="Run all calls again").click()
        await expect(page.locator("#all-rerun")).to_contain_text("differences: 0")


async def test_the_raw_line_is_one_key_away(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await open_best(page, site)
        await page.keyboard.press("r")
        await expect(page.locator("#raw pre")).to_contain_text('"format": "agentfly.trajectory/1"')
