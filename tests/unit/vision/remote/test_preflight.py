"""Servers are asked before work starts: without any of them it does not start, without some it says so."""

from __future__ import annotations

import logging
import time

import pytest

from agentfly.errors import ConfigError
from agentfly.vision.remote.preflight import require_nodes
from agentfly.vision.remote.settings import read_nodes
from tests.unit.vision.remote.fake_node import FakeNode


async def test_where_nobody_answers_all_are_named_within_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError) as fault:
        await require_nodes(read_nodes(["127.0.0.1:1", "127.0.0.1:2"]), "leave --nodes out")
    said = str(fault.value)
    assert said.startswith("no image server can be used (http://127.0.0.1:1: cannot connect")
    assert "http://127.0.0.1:2: cannot connect" in said
    assert said.endswith("start one with `agentfly serve-images`, or leave --nodes out")
    assert time.monotonic() - started < 10


async def test_the_silent_ones_among_others_are_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with FakeNode().up() as node, caplog.at_level(logging.WARNING):
        await require_nodes(read_nodes([node.url, "127.0.0.1:1"]), "leave --nodes out")
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "image servers that cannot be used: http://127.0.0.1:1: cannot connect"
    ]


async def test_one_that_is_starting_is_waited_for_later_and_none_asks_nobody() -> None:
    with FakeNode().up() as node:
        node.health = 503
        assert await require_nodes(read_nodes(node.url), "-") == {}
    await require_nodes([], "-")


async def test_servers_that_are_asked_elsewhere_only_warn(caplog: pytest.LogCaptureFixture) -> None:
    await require_nodes(read_nodes("127.0.0.1:1"), "-", warn_only=True)
    assert "http://127.0.0.1:1: cannot connect" in caplog.text
