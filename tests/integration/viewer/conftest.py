"""One browser, and one viewer of made-up runs, for all tests of the viewer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from tests.integration.viewer.browser import LIMIT, launch, require_browser
from tests.integration.viewer.site import Site, viewing
from tests.viewer_runs import Policy, TrainingPlan, evaluation_run, hostile_run, training_run


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The browser."""
    path = require_browser()
    expect.set_options(timeout=LIMIT)
    async with async_playwright() as playwright:
        started = await launch(playwright, path)
        yield started
        await started.close()


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run: 3 steps of 3 tasks with 4 chains each, and a validation before them."""
    plan = TrainingPlan(steps=3, groups=3, chains=4, tasks=6, held_out=3)
    return training_run(tmp_path_factory.mktemp("runs") / "training", plan)


@pytest.fixture(scope="session")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Evaluations of a bad and a good policy on the same 10 tasks."""
    folder = tmp_path_factory.mktemp("evaluations")
    return evaluation_run(folder / "before", 10, Policy(0.0, 0.3, 1)), evaluation_run(
        folder / "after", 10, Policy(1.0, 0.0)
    )


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tries to break every page."""
    return hostile_run(tmp_path_factory.mktemp("bad") / "hostile")


@pytest.fixture(scope="session")
def site(training: Path, evaluations: tuple[Path, Path], hostile: Path) -> Iterator[Site]:
    """A viewer of all of them; their slugs are training, before, after and hostile."""
    with viewing(training, *evaluations, hostile) as found:
        yield found
