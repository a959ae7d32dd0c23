"""A run that changes while it is looked at: it grows, is looked at twice, is resumed, and is removed."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from agentfly.agents.trajectory_file import FILE_NAME
from tests.integration.viewer.browser import LIMIT, watched
from tests.integration.viewer.site import Site, viewing
from tests.viewer_runs import TrainingPlan, TrainingRun

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PLAN = TrainingPlan(steps=3, groups=1, chains=4, tasks=2, held_out=0)


def known(site: Site, slug: str) -> int:
    """Return the number of chains that a viewer knows of a run, once it has read all of it."""
    deadline = time.monotonic() + LIMIT / 1000
    while time.monotonic() < deadline:
        # Another viewer, or another request, may be reading the file: an answer does not wait for it.
        found = json.loads(site.ask(f"/runs/{slug}/revision")[2])
        if found["complete"]:
            return int(found["chains"])
    raise TimeoutError(f"the viewer has not read {slug} within {LIMIT / 1000:g} s")


async def test_new_chains_appear_by_themselves(browser: Browser, tmp_path: Path) -> None:
    run = await asyncio.to_thread(TrainingRun, tmp_path / "growing", PLAN)
    await asyncio.to_thread(run.add_step)
    with viewing(run.folder) as site:
        async with watched(browser) as seen:
            await seen.page.goto(site("/runs/growing/chains"))
            await expect(seen.page.locator("#rows tr")).to_have_count(4)
            await seen.page.evaluate("window.same = true")
            await asyncio.to_thread(run.add_step)
            await expect(seen.page.locator("#rows tr")).to_have_count(8)
            await expect(seen.page.locator("#summary")).to_have_attribute("data-total", "8")
            assert await seen.page.evaluate("window.same"), "the page was loaded anew"
            # Somebody who looks at a row is not disturbed: a button leads to the newest.
            await seen.page.set_viewport_size({"width": 1280, "height": 400})
            await seen.page.evaluate("scrollTo(0, 1000)")
            await asyncio.to_thread(run.add_step)
            await seen.page.get_by_role("button", name="4 new · show").click()
            await expect(seen.page.locator("#rows tr")).to_have_count(12)
            assert await seen.page.evaluate("scrollY") == 0


async def test_the_list_of_runs_follows_them_and_the_focus_stays(
    browser: Browser, tmp_path: Path, training: Path
) -> None:
    run = await asyncio.to_thread(TrainingRun, tmp_path / "growing", PLAN)
    await asyncio.to_thread(run.add_step)
    with viewing(run.folder, training) as site:
        async with watched(browser) as seen:
            await seen.page.goto(site("/"))
            link = seen.page.get_by_role("link", name=re.compile("growing"))
            await link.focus()
            card = seen.page.locator("#run-growing")
            await expect(card).to_contain_text("4 chains")
            await expect(card).to_contain_text("Running, step 1")
            await asyncio.to_thread(run.add_step)
            await expect(card).to_contain_text("8 chains")
            await expect(card).to_contain_text(re.compile("changed .* ago"))
            await expect(link).to_be_focused()


async def test_a_torn_line_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    run = await asyncio.to_thread(TrainingRun, tmp_path / "torn", PLAN)
    await asyncio.to_thread(run.add_step)
    file = run.folder / FILE_NAME
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with viewing(run.folder) as site:
        assert known(site, "torn") == 3
        with file.open("ab") as end:
            end.write(whole[-100:])
        assert known(site, "torn") == 4
        # A run that is resumed takes the lines of a step away.
        file.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
        assert known(site, "torn") == 2


async def test_two_viewers_of_a_run_agree(tmp_path: Path) -> None:
    run = await asyncio.to_thread(TrainingRun, tmp_path / "shared", PLAN)
    with viewing(run.folder) as one, viewing(run.folder) as two:
        for step in (1, 2):
            await asyncio.to_thread(run.add_step)
            counts = await asyncio.gather(*(asyncio.to_thread(known, site, "shared") for site in (one, two) * 4))
            assert set(counts) == {4 * step}
        pages = [site.ask("/runs/shared/chains")[2] for site in (one, two)]
        assert re.findall(r"chains/\d+", pages[0]) == re.findall(r"chains/\d+", pages[1])


async def test_a_run_that_is_removed_is_said_to_be_gone_and_the_others_stay(
    browser: Browser, tmp_path: Path, training: Path
) -> None:
    run = await asyncio.to_thread(TrainingRun, tmp_path / "removed", PLAN)
    await asyncio.to_thread(run.add_step)
    with viewing(run.folder, training) as site:
        async with watched(browser) as seen:
            seen.expected.append("the server responded with a status of 404")
            await seen.page.goto(site("/runs/removed/chains"))
            shutil.rmtree(run.folder)
            for page in (
                "/runs/removed/chains",
                "/runs/removed/",
                "/runs/removed/chains/1",
                "/runs/removed/chains/1/raw",
            ):
                answer = await seen.page.goto(site(page))
                assert answer is not None
                assert answer.status == 404
                await expect(seen.page.get_by_role("main")).to_contain_text("is gone")
            assert site.ask("/runs/removed/images/1/img_000000000000.png")[0] == 404
            assert not run.folder.exists(), "the viewer made the folder again"
            answer = await seen.page.goto(site("/runs/training/chains"))
            assert answer is not None
            assert answer.status == 200
