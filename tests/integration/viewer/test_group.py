"""The chains of one task side by side, step by step; and two evaluations of the same tasks."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect

from tests.integration.viewer.browser import arrived, watched
from tests.integration.viewer.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_a_group_has_a_result_for_each_chain_and_the_task_at_other_steps(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(site("/runs/training/groups?step=1"))
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await arrived(page, re.compile(r"/group\?"))
        await expect(page.locator(".grid .entry")).to_have_count(4)
        advantages = await page.locator(".grid dt:text('Advantage') + dd").all_inner_texts()
        numbers = [float(text.replace("−", "-").rstrip("*")) for text in advantages]
        assert abs(sum(numbers)) < 0.1
        # Six tasks, three in a step: those of the first step are met again in the third.
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
        await expect(page.locator(".verdict .big")).to_contain_text("points better")
        await expect(page.locator(".verdict")).to_contain_text("over 10 tasks that both have; p = 0.")
        await expect(page.locator(".pairs .entry")).to_have_count(10)
        await page.get_by_label("Tasks that are shown").get_by_role("link").nth(1).click()
        await arrived(page, re.compile("show="))
        fewer = await page.locator(".pairs .entry").count()
        assert 0 < fewer < 10
        await page.keyboard.press("j")
        await page.keyboard.press("a")
        await expect(page).to_have_url(re.compile(r"/runs/before/chains/\d+"))
        assert not [address for address in seen.requests if "/images/" in address]


async def test_the_overview_says_whether_it_learned_and_what_a_failure_looks_like(browser: Browser, site: Site) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(site("/runs/training/"))
        await expect(page.locator(".verdict")).to_contain_text("reward")
        await expect(page.get_by_role("heading", name="What a failure looks like")).to_be_visible()
        assert await page.locator("main svg").count() >= 5
        await page.get_by_label("Draw beside").select_option("before")
        await page.get_by_role("button", name="Compare").click()
        await expect(page.locator("#differences")).to_contain_text("policy-0.0")
