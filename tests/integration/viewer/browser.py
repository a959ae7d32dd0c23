"""A page of a real browser that is watched: errors on it and requests away from this machine fail the test."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Dialog, Page, Playwright, Request, expect

ROOT = Path(__file__).resolve().parents[3]
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
WIDTHS = (1280, 390)
# Files of images that are damaged are found only when they are read; the browser calls the answer an error.
BROKEN_IMAGE = r"the server responded with a status of 4\d\d.*\.(png|webp)\)$"
HERE = ("127.0.0.1", "localhost")
LIMIT = 60_000  # milliseconds that anything on a page may take, on a busy machine
# The names of all other machines lead nowhere.
_ARGUMENTS = ("--disable-dev-shm-usage", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
MISSING = "no Chromium and no Chrome here: scripts/install_browser.sh installs one, or says how"
_SERIOUS = ("serious", "critical")


def find_browser() -> str | None:
    """Return the path of the browser; None where there is none."""
    found = subprocess.run([ROOT / "scripts/install_browser.sh", "--find"], capture_output=True, text=True, timeout=30)
    return found.stdout.strip() or None


def require_browser() -> str:
    """Return the path of the browser; where there is none the test is skipped, and fails on CI."""
    path = find_browser()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    return path


async def launch(playwright: Playwright, path: str) -> Browser:
    """Start the browser without a window. Root may start it only without its sandbox."""
    sandbox = () if os.getuid() else ("--no-sandbox",)
    return await playwright.chromium.launch(executable_path=path, args=[*_ARGUMENTS, *sandbox], timeout=60_000)


@dataclass
class Watched:
    """A page with the faults that were seen on it.

    Attributes:
        page: of the browser.
        faults: errors of the console and of scripts, dialogs, failed requests, and requests to other machines.
        expected: patterns of faults that the test provokes; they are left out of `faults`.
        requests: addresses that the page asked for.
    """

    page: Page
    faults: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._note(f"error of a script: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._asked)

    def _note(self, fault: str) -> None:
        if not any(re.search(pattern, fault) for pattern in self.expected):
            self.faults.append(f"{self.page.url}: {fault}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"console: {message.text} ({message.location.get('url')})")

    async def _dialog(self, dialog: Dialog) -> None:
        self._note(f"a dialog: {dialog.message}")
        await dialog.dismiss()

    def _failed(self, request: Request) -> None:
        # A page that is left ends its own requests.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"failed: {request.url} {request.failure}")

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob", "about", "file") and address.hostname not in HERE:
            self._note(f"a request to another machine: {request.url}")


@asynccontextmanager
async def watched(browser: Browser, *, theme: Theme = "light", width: int = 1280) -> AsyncIterator[Watched]:
    """Give a watched page, and fail at the end if there was a fault.

    Args:
        browser: running.
        theme: that the system of the visitor prefers.
        width: of the window in pixels.
    """
    context = await browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce", accept_downloads=True
    )
    context.set_default_timeout(LIMIT)
    try:
        watched = Watched(await context.new_page())
        yield watched
        if watched.faults:
            raise AssertionError("\n".join(watched.faults))
    finally:
        await context.close()


async def arrived(page: Page, address: str | re.Pattern[str]) -> None:
    """Wait until a page has another address and its scripts have run: before that, a key would be lost."""
    await expect(page).to_have_url(address)
    await page.wait_for_load_state("load")


@cache
def _axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


async def findings(page: Page) -> list[str]:
    """Return what axe-core finds wrong with a page that is serious or critical: rule, element and reason."""
    await page.evaluate(_axe())
    found: Mapping[str, Any] = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    violations: Sequence[Mapping[str, Any]] = found["violations"]
    return [
        f"{violation['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for violation in violations
        if violation["impact"] in _SERIOUS
        for node in violation["nodes"]
    ]


async def sideways(page: Page) -> int:
    """Return by how many pixels a page is wider than its window."""
    wider: int = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider
