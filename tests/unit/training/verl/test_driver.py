"""The trainer's process waits for a Ray that is slow to start, and joins one that runs already with all it needs."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentfly.errors import TrainingError
from agentfly.training.launch.environment import FORWARDED_VARIABLE
from agentfly.training.verl import driver as room
from agentfly.training.verl.driver import join_cluster, lost_nodes_named, wait_for_ray


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_cluster_is_joined_with_the_variables_of_the_run_and_without_resources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **given: asked.append(given))
    known = [{"NodeManagerAddress": f"10.0.0.{number}", "NodeManagerPort": 7, "Alive": number > 1} for number in (1, 2)]
    monkeypatch.setattr(ray, "nodes", lambda: known)
    monkeypatch.setattr(ray, "get_actor", queue_of_another_run(2))
    monkeypatch.setenv(FORWARDED_VARIABLE, "VERL_FILE_LOGGER_PATH GONE")
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", "/run/metrics.jsonl")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")  # verl's own, which it leaves out where this process has it
    nodes = join_cluster()
    assert nodes == []
    variables = {"TRANSFER_QUEUE_ENABLE": "1", "VLLM_LOGGING_LEVEL": "WARN"}
    ray.init(num_cpus=16, num_gpus=1, object_store_memory=5, log_to_driver=True, runtime_env={"env_vars": variables})
    assert nodes == [("10.0.0.2", 7)]
    [given] = asked
    assert given.keys() == {"log_to_driver", "runtime_env"}
    assert (
        given["runtime_env"]["env_vars"].items()
        >= {
            "TRANSFER_QUEUE_ENABLE": "1",
            "VERL_FILE_LOGGER_PATH": "/run/metrics.jsonl",
            "NCCL_DEBUG": "INFO",
        }.items()
    )
    assert "GONE" not in given["runtime_env"]["env_vars"]


def test_ray_still_refuses_resources_where_it_joins() -> None:
    worker = pytest.importorskip("ray._private.worker")
    source = Path(worker.__file__).read_text(encoding="utf-8")
    assert "and num_gpus must not be provided." in source
    assert "object_store_memory must not be provided." in source


def queue_of_another_run(times: int) -> Callable[..., object]:
    """Return Ray's `get_actor` of a cluster in which a queue is found so many times."""
    left = [times]

    def get_actor(name: str, namespace: str) -> object:
        assert (name, namespace) == ("TransferQueueController", "transfer_queue")
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("Failed to look up actor")
        return object()

    return get_actor


def test_a_cluster_in_which_another_run_trains_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would train on the chains of both."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda **given: None)
    monkeypatch.setattr(ray, "get_actor", queue_of_another_run(9))
    monkeypatch.setattr(room, "_QUEUE_SECONDS", 0.0)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    join_cluster()
    with pytest.raises(TrainingError, match=r"another run trains in the Ray cluster of RAY_ADDRESS=10\.0\.0\.1:6379"):
        ray.init(runtime_env={})


def test_the_queue_still_has_one_name_in_a_cluster() -> None:
    spec = importlib.util.find_spec("transfer_queue")
    if spec is None or spec.origin is None:
        pytest.skip("TransferQueue is not installed")
    source = (Path(spec.origin).parent / "interface.py").read_text(encoding="utf-8")
    assert 'ray.get_actor("TransferQueueController", namespace="transfer_queue")' in source


def fail(nodes: Sequence[tuple[str, int]], fault: Exception) -> None:
    with lost_nodes_named(nodes):
        raise fault


def test_a_failed_run_names_the_nodes_that_are_gone() -> None:
    """The trainer's own error is of the connection to a process that was there."""
    with socket.socket() as there, socket.socket() as gone:
        for node in (there, gone):
            node.bind(("127.0.0.1", 0))
        there.listen()
        living, dead = there.getsockname(), gone.getsockname()
        fault = RuntimeError("Connection closed by peer [127.0.0.1]:57011\nmore of it")
        fault.cause = ValueError("gloo")  # type: ignore[attr-defined]
        with pytest.raises(TrainingError, match=r"^node 127\.0\.0\.1 of the Ray cluster is gone: ValueError: gloo$"):
            fail([living, dead], fault)
        with pytest.raises(RuntimeError, match="Connection closed"):
            fail([living], fault)
