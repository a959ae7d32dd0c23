"""What all tests of training share: the codec of the tiny policy, and a logger that stays as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfly.templates import ChatCodec


@pytest.fixture(scope="session")
def policy_codec(tiny_policy: Path) -> ChatCodec:
    """Of the tiny policy; it keeps nothing of a conversation."""
    return ChatCodec.from_pretrained(str(tiny_policy))


@pytest.fixture(autouse=True)
def our_logger() -> Iterator[None]:
    """Undo what `log_to_run` does for the processes of a run: other tests look at the root logger."""
    ours = logging.getLogger("agentfly")
    before = ours.handlers, ours.propagate, ours.level
    yield
    ours.handlers, ours.propagate = before[0], before[1]
    ours.setLevel(before[2])
