"""A person rates with the keyboard; every verdict is a line beside the run, and can be taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.integration.viewer.browser import watched
from tests.integration.viewer.site import Site, viewing
from tests.viewer_runs import TrainingPlan, training_run

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 chains of 2 tasks."""
    plan = TrainingPlan(steps=1, groups=2, chains=4, tasks=2, held_out=0, learns=False)
    return training_run(tmp_path_factory.mktemp("rated") / "rated", plan)


@pytest.fixture(scope="module")
def rating_site(rated: Path) -> Iterator[Site]:
    with viewing(rated) as site:
        yield site


def lines(run: Path) -> list[dict[str, Any]]:
    """Return what was rated so far."""
    file = run / "ratings.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


async def test_a_comparison_by_key_is_kept_and_undone(browser: Browser, rating_site: Site, rated: Path) -> None:
    async with watched(browser) as seen:
        page = seen.page
        await page.goto(rating_site("/runs/rated/rate?rater=Ada"))
        results = page.locator("#stage")
        first = await results.get_attribute("data-results")
        await page.keyboard.press("w")
        await page.keyboard.type("the sky is <b>torn</b>")
        await page.keyboard.press("Enter")
        await page.keyboard.press("ArrowLeft")
        await expect(results).not_to_have_attribute("data-results", first or "")
        (line,) = lines(rated)
        assert line["verdict"] in ("better", "worse")
        assert (line["rater"], line["words"]) == ("Ada", "the sky is <b>torn</b>")
        assert len(line["chains"]) == 2
        await page.keyboard.press("u")
        await expect(results).to_have_attribute("data-results", first or "")
        assert lines(rated)[-1]["undoes"] == line["id"]
        await page.keyboard.press("ArrowDown")
        await expect(results).not_to_have_attribute("data-results", first or "")
        assert lines(rated)[-1]["verdict"] == "tie"
        # Full images are loaded here, since a verdict on thumbnails would be worth nothing.
        assert any("/images/" in address for address in seen.requests)


async def test_a_score_is_typed(browser: Browser, rating_site: Site, rated: Path) -> None:
    async with watched(browser, width=390, theme="dark") as seen:
        page = seen.page
        await page.goto(rating_site("/runs/rated/rate?mode=single&rater=Bob"))
        before = await page.locator("#stage").get_attribute("data-results")
        for key in ("8", "5"):
            await page.keyboard.press(key)
        await expect(page.locator("#score-value")).to_have_text("85")
        await page.keyboard.press("Enter")
        await expect(page.locator("#stage")).not_to_have_attribute("data-results", before or "")
        assert (lines(rated)[-1]["score"], lines(rated)[-1]["rater"]) == (85, "Bob")


async def test_what_another_site_or_a_form_sends_is_no_verdict(rating_site: Site, rated: Path) -> None:
    count = len(lines(rated))
    body = json.dumps({"results": [], "verdict": "left", "rater": "Eve"})
    for headers in (
        {"Content-Type": "application/json", "Origin": "https://evil.example"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json"},
    ):
        status, _, _ = rating_site.ask("/runs/rated/rate", headers, "POST", body)
        assert 400 <= status < 500
    assert len(lines(rated)) == count
