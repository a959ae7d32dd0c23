"""The statistics of a pool on a narrow terminal, where host names are copied from."""

from __future__ import annotations

import pytest

from agentfly.vision.remote.statistics import NodeStatistics, PoolStatistics
from tests.unit.hostile import EVERYTHING, HOSTILE, assert_tame

HOSTS = ("http://gpu-node-17.cluster.example:8000", "http://127.0.0.1:8001")
ERROR = "ConnectError: /a/very/long/path/of/a/socket/that/nobody/can/read/in/a/table: connection refused"


def test_at_80_columns_host_names_and_errors_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    statistics("qwen-image-edit-2511", dict(zip(HOSTS, (ERROR, ""), strict=True))).print()
    shown = capsys.readouterr().out
    assert max(map(len, shown.replace(f"{HOSTS[0]}: {ERROR}\n", "").splitlines())) <= 80
    assert all(f"│{host}" in shown for host in HOSTS)
    assert f"\n{HOSTS[0]}: {ERROR}\n" in shown


@pytest.mark.parametrize("hostile", [*HOSTILE, EVERYTHING])
def test_a_server_cannot_steer_the_terminal_by_its_model_or_its_error(
    hostile: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    statistics(hostile, {HOSTS[0]: hostile}).print()
    shown = capsys.readouterr().out
    if hostile == EVERYTHING:
        assert_tame(shown)


def statistics(model: str, errors: dict[str, str]) -> PoolStatistics:
    """The statistics of nodes that serve a model and had these errors, by address."""
    node = {"adapter": "ours", "model": model, "operations": ("edit",), "state": "not ready"}
    counts = dict.fromkeys(("attempts", "answered", "refused", "failed", "busy", "cancelled", "hedges_won"), 123)
    times = {"mean": 12.3, "p50": 12.345, "p99": 45.678}
    nodes = tuple(
        NodeStatistics(url=host, in_flight=3, limit=4.0, last_error=error, **node, **counts, **times)  # type: ignore[arg-type]
        for host, error in errors.items()
    )
    totals = dict.fromkeys(("requests", "answered", "refused", "timed_out", "failed", "cancelled", "pending"), 9)
    more = dict.fromkeys(("retries", "hedges", "waiting"), 1)
    return PoolStatistics(**totals, **more, requests_per_minute_limit=None, nodes=nodes)
