"""The chains of one task side by side, step by step; and two evaluations of the same tasks."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect

from tests.integration.viewer.browser import watched
from tests.integration.viewer.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_a_group_has_a_result_for_each_chain_and_the_task_at_other_steps(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(site("/runs/training/groups?chains=trained"))
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(r"/group\?"))
        await expect(page.locator(".grid .entry")).to_have_count(4)
        advantages = await page.locator(".grid dt:text('Advantage') + dd").all_inner_texts()
        numbers = [float(text.replace("−", "-").rstrip("*")) for text in advantages]
        assert abs(sum(numbers)) < 0.1
        # Six tasks, three in a step: each is met again two steps later.
        await expect(page.locator("#moments > li")).to_have_count(2)
        before = page.url
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("ArrowLeft")
        await page.locator(".grid .open").first.click()
        await expect(page).to_have_url(re.compile(r"/chains/\d+"))
        await page.go_back()
        assert page.url.split("?")[0] == before.split("?")[0]
        assert not [address for address in seen.requests if "/images/" in address]


async def test_two_evaluations_are_compared_task_by_task(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(site("/compare?a=before&b=after"))
        main = page.get_by_role("main")
        await expect(main).to_contain_text(
            re.compile(r"10 (common |shared |same )?tasks|tasks.*10", re.IGNORECASE | re.DOTALL)
        )
        await expect(main).to_contain_text(re.compile(r"difference", re.IGNORECASE))
        assert await page.locator("main img").count() >= 10
