"""Try: a person chooses an image, writes an instruction, watches each step arrive, and opens and rates the result."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Browser, expect

from tests.integration.viewer.browser import findings, sideways, watched
from tests.integration.viewer.site import viewing
from tests.unit.agents.calls import call
from tests.unit.agents.conftest import ChatServer, delta, failure, running_server, server, stream

__all__ = ["running_server", "server"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

EDIT = call("qwen_edit_image", image_id="img_1", prompt="darken")
ANSWER = call("give_answer", final_image_id="img_2", description="<i>darker</i>")


async def test_an_image_is_edited_step_by_step_kept_and_opened(
    browser: Browser, server: ChatServer, tmp_path: Path
) -> None:
    photo, kept = tmp_path / "photo.png", tmp_path / "kept"
    Image.new("RGB", (200, 120), "orange").save(photo)
    server.say(stream(delta(content=f"I make it <b>darker</b>. {EDIT}"), delta("stop")))
    server.say(stream(delta(content=ANSWER), delta("stop")))
    with viewing(options=("--try", "--base-url", server.url, "--model", "m", "--save", str(kept))) as site:
        async with watched(browser) as seen:
            page = seen.page
            await page.goto(site("/try"))
            assert await findings(page) == []
            await page.locator("#file").set_input_files(photo)
            await expect(page.locator("#chosen-size")).to_contain_text("200 × 120")
            await page.locator("#instruction").fill("Make it darker")
            await page.keyboard.press("Control+Enter")
            await expect(page.locator("#result")).to_be_visible()
            await expect(page.locator(".step")).to_have_count(2)
            await expect(page.locator(".said").first).to_contain_text("I make it <b>darker</b>.")
            await expect(page.locator("#answer")).to_contain_text("<i>darker</i>")
            await page.set_viewport_size({"width": 390, "height": 900})
            assert await sideways(page) <= 0
            assert await findings(page) == []
            await page.locator("#open-chain").click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Make it darker")
    assert (kept / "trajectories.jsonl").read_text().count("\n") == 1


async def test_a_policy_that_does_not_answer_is_said_to_be_at_fault(
    browser: Browser, server: ChatServer, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "orange").save(photo)
    server.say(failure(400, "the model <script>alert(1)</script> is gone"))
    with viewing(options=("--try", "--base-url", server.url, "--model", "m")) as site:
        async with watched(browser) as seen:
            await seen.page.goto(site("/try"))
            await seen.page.locator("#file").set_input_files(photo)
            await seen.page.locator("#instruction").fill("Make it darker")
            await seen.page.locator("#start").click()
            await expect(seen.page.locator("#try-fault")).to_contain_text("<script>alert(1)</script> is gone")
            await expect(seen.page.locator("#start")).to_be_enabled()
