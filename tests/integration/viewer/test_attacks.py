"""What a viewer refuses: other sites, paths out of a run, and texts that would like to be scripts."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser

from tests.integration.viewer.browser import BROKEN_IMAGE, watched
from tests.integration.viewer.site import Site

pytestmark = pytest.mark.slow

LARGEST = 300_000  # bytes of a page without its images
WAYS_OUT = (
    "/runs/training/images/1/..%2f..%2fconfig.yaml.png",
    "/runs/training/images/1/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd.png",
    "/runs/training/images/1/%2fetc%2fpasswd.png",
    "/runs/training/images/1/img_000000000000.png",
    "/runs/training/images/1/img_00000000000g.png",
    "/runs/training/images/999/img_000000000000.png",
    "/runs/training/images/-1/img_000000000000.png",
    "/runs/training/thumbs/1/..%2f..%2fconfig.yaml.webp",
    "/runs/training/thumbs/1/img_000000000000.webp",
    "/runs/../../etc/passwd",
    "/runs/..%2f..%2fetc/",
    "/runs/training/../../setup.py",
    "/runs/nothing/",
    "/runs/training/chains/999999",
    "/runs/training/chains/0/raw",
    "/static/../render.py",
    "/static/..%2frender.py",
    "/static/%2e%2e/%2e%2e/server.py",
    "/static//etc/passwd",
    "/docs",
    "/openapi.json",
)


@pytest.mark.parametrize("path", WAYS_OUT)
def test_no_path_leads_out_of_a_run(site: Site, path: str) -> None:
    status, headers, body = site.ask(path)
    assert status in (404, 422), body[:300]
    assert "default-src 'none'" in headers["content-security-policy"]
    for secret in ("root:", "agentfly:", "import ", "Traceback"):
        assert secret not in body


@pytest.mark.parametrize("path", ["/", "/runs/training/", "/runs/training/chains", "/static/page.js", "/nothing"])
def test_every_answer_says_what_a_page_may_load(site: Site, path: str) -> None:
    _, headers, _ = site.ask(path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example"])
def test_a_name_that_is_not_the_servers_is_refused(site: Site, host: str) -> None:
    status, _, body = site.ask("/runs/training/chains", {"Host": host})
    assert 400 <= status < 500
    assert "train-" not in body


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1.evil.example", "null"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_of_other_sites_are_refused(site: Site, origin: str, method: str) -> None:
    status, _, body = site.ask("/runs/training/revision", {"Origin": origin}, method)
    assert status == 403
    assert "revision" not in body


@pytest.mark.parametrize(
    "query",
    [
        "page=-1&size=0",
        "page=99999999999999999999&step=99999999999999999999",
        "sort=n;DROP TABLE chains&down=maybe",
        "score_from=nan&score_to=inf",
        "text=%00%ff%27%22%3Cscript%3E",
        "type=' OR 1=1 --&stop=%F0%9F%98%80",
        "unknown=1&page=2&page=3",
    ],
)
def test_filters_that_nobody_offered_do_no_harm(site: Site, query: str) -> None:
    status, _, body = site.ask(f"/runs/training/chains?{query.replace(' ', '%20')}")
    assert status == 200
    assert "<script>" not in body


@pytest.mark.asyncio(loop_scope="session")
async def test_hostile_texts_are_shown_as_texts_on_every_chain(browser: Browser, site: Site) -> None:
    numbers = range(1, 40)
    async with watched(browser) as seen:
        seen.expected.append(BROKEN_IMAGE)
        shown = 0
        for number in numbers:
            answer = await seen.page.goto(site(f"/runs/hostile/chains/{number}"))
            assert answer is not None
            if answer.status == 404:
                seen.faults.clear()  # the browser calls an answer of 404 an error
                continue
            shown += 1
            assert answer.status == 200
            assert len(await answer.body()) <= LARGEST
            assert await seen.page.locator("main script, main style, main iframe, main [onerror]").count() == 0
            assert "49" not in re.findall(r"\{\{.*?\}\}|<!-- *(\d+)", await seen.page.content())
        assert shown >= 14


@pytest.mark.parametrize("run", ["training", "before", "hostile"])
def test_a_page_without_its_images_is_small(site: Site, run: str) -> None:
    for page in ("", "chains", "chains?size=200"):
        status, _, body = site.ask(f"/runs/{run}/{page}")
        assert status == 200
        assert len(body.encode()) <= LARGEST, page
