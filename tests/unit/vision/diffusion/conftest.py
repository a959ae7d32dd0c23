"""Engines on tiny checkpoints, and a record of what their pipelines were called with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.vision.diffusion import DiffusionEditor, DiffusionInpainter, EditorSettings, InpainterSettings

AREA = 64 * 64


@pytest.fixture(scope="module")
def inpainter(checkpoint: Callable[[str], str]) -> Callable[..., DiffusionInpainter]:
    """An inpainter of two steps on a tiny checkpoint; equal ones of a module are one."""
    made: dict[Any, DiffusionInpainter] = {}

    def make(name: str, **settings: Any) -> DiffusionInpainter:
        wanted = InpainterSettings(**{"model": checkpoint(name), "device": "cpu", "area": AREA, "steps": 2, **settings})
        return made.setdefault(wanted, DiffusionInpainter(wanted))

    return make


@pytest.fixture(scope="module")
def editor(checkpoint: Callable[[str], str]) -> Callable[..., DiffusionEditor]:
    """An editor of two steps on a tiny checkpoint; equal ones of a module are one."""
    made: dict[Any, DiffusionEditor] = {}

    def make(name: str, **settings: Any) -> DiffusionEditor:
        wanted = EditorSettings(**{"model": checkpoint(name), "device": "cpu", "area": AREA, "steps": 2, **settings})
        return made.setdefault(wanted, DiffusionEditor(wanted))

    return make


@dataclass
class Calls:
    """Arguments of the pipeline calls since the start of the test, and the threads they ran in."""

    arguments: list[dict[str, Any]] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        """Requests of each call."""
        return [len(a["prompt"]) if isinstance(a["prompt"], list) else 1 for a in self.arguments]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Records what pipelines are called with."""
    from agentfly.vision.diffusion.calls import Caller

    record, original = Calls(), Caller.arguments

    def spy(self: Caller, plan: Any, orders: Sequence[Any], abandoned: Any) -> dict[str, Any]:
        given = original(self, plan, orders, abandoned)
        record.arguments.append(given)
        record.threads.append(threading.current_thread())
        return given

    monkeypatch.setattr(Caller, "arguments", spy)
    return record


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a channel between two images of one size."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())
