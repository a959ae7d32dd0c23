"""The codec of the tiny policy, once for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.templates import ChatCodec


@pytest.fixture(scope="session")
def policy_codec(tiny_policy: Path) -> ChatCodec:
    """Of the tiny policy; it keeps nothing of a conversation."""
    return ChatCodec.from_pretrained(str(tiny_policy))
