"""The trainer's process waits for a Ray that is slow to start, and leaves it to the launcher to call it hung."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.training.verl import driver as room
from agentfly.training.verl.driver import wait_for_ray


def test_a_node_that_registers_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gave up after 30 seconds: a run beside a test suite ended before it had begun."""
    services = pytest.importorskip("ray._private.services")
    asked: list[tuple[str, str]] = []

    def get_node(gcs_address: str, node_id: str) -> dict[str, str]:
        asked.append((gcs_address, node_id))
        if len(asked) < 3:
            raise RuntimeError("No node is registered")
        return {"node": node_id}

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(room, "_ASK_SECONDS", 0.0)
    wait_for_ray()
    assert services.get_node("127.0.0.1:1", "n1") == {"node": "n1"}
    assert asked == [("127.0.0.1:1", "n1")] * 3


def test_ray_still_asks_in_the_way_that_is_replaced() -> None:
    node = pytest.importorskip("ray._private.node")
    source = Path(node.__file__).read_text(encoding="utf-8")
    assert "raylet_start_wait_time_s = 30" in source
    assert "ray._private.services.get_node(" in source
