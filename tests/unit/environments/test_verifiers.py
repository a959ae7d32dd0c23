"""The task set of verifiers, run by verifiers' own evaluation command in an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.trajectory_file import read_trajectories
from agentfly.errors import MissingExtraError
from agentfly.evaluation.replay import read_recording
from tests.unit.environments.other_project import ROOT, environment, python_with
from tests.unit.environments.scripted import next_turn

Bodies = list[dict[str, Any]]


class Endpoint(ThreadingHTTPServer):
    """A chat endpoint with a scripted policy that reasons; it keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: Bodies = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        turn = {**next_turn(body["messages"]), "reasoning_content": "first the sticker, then the answer"}
        choice = {"index": 0, "message": turn, "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        reply = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def evaluate(endpoint: Endpoint, folder: Path, *options: str) -> tuple[list[dict[str, Any]], Bodies]:
    """Run `vf-eval agentfly-editing`; return its traces, and what the endpoint was asked."""
    endpoint.bodies.clear()
    command = python_with("verifiers").with_name("vf-eval")
    words = ["agentfly-editing", "-m", "policy", "--no-push", "--no-rich", "-o", str(folder), "--run.name", "run"]
    words += ["--client.base-url", f"http://127.0.0.1:{endpoint.server_port}/v1"]
    words += [
        "--env.taskset.data-options",
        '{"families": ["named"]}',
        "--env.agent.harness.log-dir",
        str(folder / "log"),
    ]
    done = subprocess.run(
        [command, *words, *options], env=environment(), cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    file = folder / "run" / "traces.jsonl"
    assert file.is_file(), done.stderr
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [trace for line in lines for trace in line.get("traces", [line])], list(endpoint.bodies)


@pytest.fixture(scope="module")
def evaluated(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("verifiers")
    weights = '{"tool_cost": 0.5, "free_tool_calls": 1}'
    traces, bodies = evaluate(endpoint, folder, "-n", "2", "-r", "2", "--env.taskset.task.reward", weights)
    return traces, bodies, folder


@pytest.mark.slow
def test_our_reward_is_the_reward_and_its_named_parts_are_metrics(evaluated: Any) -> None:
    traces, _, _ = evaluated
    assert len(traces) == 4
    assert max(trace["metrics"]["score"] for trace in traces) > 50
    for trace in traces:
        assert trace["ok"], trace["errors"]
        metrics = trace["metrics"]
        assert trace["rewards"].keys() == {"reward"}
        assert metrics["part/edit"] == pytest.approx(metrics["score"] / 100)
        # Two calls, of which one costs nothing.
        assert (metrics["tool_calls"], metrics["part/tool_cost"]) == (2, -0.5)
        assert trace["rewards"]["reward"]["score"] == pytest.approx(max(-0.2, metrics["part/edit"] - 0.5))
        assert (metrics["answered"], metrics["part/format"]) == (1, 0)
        assert 0 <= metrics["aspect/inside"] <= 1


@pytest.mark.slow
def test_the_policy_gets_our_tools_and_images_in_user_and_tool_messages(evaluated: Any) -> None:
    _, bodies, _ = evaluated
    first, second = (next(body for body in bodies if len(body["messages"]) == length) for length in (2, 4))
    assert [tool["function"]["name"] for tool in first["tools"]][-1] == "give_answer"

    def images(message: dict[str, Any]) -> int:
        parts = message["content"] if isinstance(message["content"], list) else []
        return sum(part["type"] == "image_url" for part in parts)

    assert [(m["role"], images(m)) for m in first["messages"]] == [("system", 0), ("user", 1)]
    assert [(m["role"], images(m)) for m in second["messages"][3:]] == [("tool", 1)]


@pytest.mark.slow
def test_a_rollout_is_one_branch_so_that_a_trainer_extends_the_ids_that_it_sampled(evaluated: Any) -> None:
    traces, _, _ = evaluated
    for trace in traces:
        assert [node.get("parent") for node in trace["nodes"]] == [None, 0, 1, 2, 3]
        assert [node["sampled"] for node in trace["nodes"]] == [False, False, True, False, True]


@pytest.mark.slow
def test_our_own_record_can_be_read_by_viewer_and_replay(evaluated: Any) -> None:
    traces, _, folder = evaluated
    recording = read_recording(folder / "log")
    assert {chain.trajectory.id for chain in recording.chains} == {trace["id"] for trace in traces}
    store = recording.store()
    assert all(handle in store for chain in recording.chains for handle in chain.trajectory.handles)
    rewards = {trace["id"]: trace["rewards"]["reward"]["score"] for trace in traces}
    for _, line in read_trajectories(folder / "log" / "trajectories.jsonl"):
        assert line.trajectory.reward == pytest.approx(rewards[line.trajectory.id])


@pytest.mark.slow
def test_a_limit_of_verifiers_ends_a_rollout_which_is_scored_as_it_stands(endpoint: Endpoint, tmp_path: Path) -> None:
    [trace], _ = evaluate(endpoint, tmp_path, "-n", "1", "--env.agent.max-turns", "1")
    assert (trace["ok"], trace["stop_condition"]) == (True, "max_turns")
    assert (trace["metrics"]["turns"], trace["metrics"]["answered"]) == (1, 0)
    [(_, line)] = read_trajectories(tmp_path / "log" / "trajectories.jsonl")
    assert str(line.trajectory.stop_reason) == "stopped"


@pytest.mark.skipif(importlib.util.find_spec("verifiers") is not None, reason="verifiers is installed here")
def test_without_verifiers_the_message_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"\[verifiers\]"):
        importlib.import_module("agentfly_editing")


def test_the_plug_in_is_a_top_level_module_which_setup_installs() -> None:
    assert (ROOT / "agentfly_editing.py").is_file()
    assert 'py_modules=["agentfly_editing"]' in (ROOT / "setup.py").read_text("utf-8")
