"""The server for OpenEnv, asked by OpenEnv's own client in an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentfly.agents.trajectory_file import read_trajectories
from agentfly.errors import MissingExtraError
from tests.unit.environments.other_project import ROOT, environment, python_with


@contextmanager
def server(python: Path, folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `agentfly serve-openenv` and yield its address."""
    log = folder / "server.log"
    words = [str(python), "-m", "agentfly.cli", "serve-openenv", "--port", "0", *options]
    with (
        log.open("w") as file,
        subprocess.Popen(words, env=environment(), cwd=folder, stderr=file, text=True) as process,
    ):
        try:
            deadline = time.monotonic() + 240
            while not (found := re.search(r"running on (http://\S+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield found[1], process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the client saw, what plain HTTP said, and the folder with the log of the episodes."""
    python, folder = python_with("openenv"), tmp_path_factory.mktemp("openenv")
    config = folder / "environment.yaml"
    config.write_text(
        f"data: stickers\nlimit: 3\ndata_options: {{families: [named]}}\nlog_dir: {folder / 'log'}\n"
        "reward: {tool_cost: 0.5, free_tool_calls: 1}\n"
    )
    with server(python, folder, "--config", str(config), "--max-sessions", "2") as (url, process):
        module = "tests.unit.environments.openenv_client"
        client = subprocess.run(
            [python, "-m", module, url], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert client.returncode == 0, client.stderr
        with httpx.Client(base_url=url, trust_env=False) as http:
            web = {"Origin": "http://evil.example", "Connection": "Upgrade", "Upgrade": "websocket"}
            key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
            replies = {
                "health": http.get("/health"),
                "schema": http.get("/schema"),
                "page": http.get("/ws", headers={**web, **key}),
            }
        process.send_signal(signal.SIGTERM)
        ended = process.wait(30)
    return {"client": json.loads(client.stdout), "replies": replies, "ended": ended, "log": folder / "log"}


@pytest.mark.slow
def test_its_client_plays_our_tasks_with_our_tools_and_gets_our_reward_in_parts(told: Any) -> None:
    one, _ = told["client"]["episodes"]
    assert one["tools"][-1] == "give_answer"
    assert one["roles"] == ["system", "user", "assistant", "tool", "assistant"]
    assert one["images"] == 2
    assert one["rewards"][:2] == [None, None]
    info = one["info"]
    assert info["stop_reason"] == "answered"
    assert info["score"] > 50
    # Two calls, of which one costs nothing.
    assert info["reward_parts"] == pytest.approx(
        {"edit": info["score"] / 100, "format": 0, "failed": 0, "tool_cost": -0.5, "overlong": 0}
    )
    assert one["rewards"][2] == pytest.approx(max(-0.2, info["score"] / 100 - 0.5))
    assert one["state"]["step_count"] == 2
    assert one["state"]["episode_id"] == one["first_info"]["episode_id"]


@pytest.mark.slow
def test_equal_seeds_give_one_task_to_two_sessions(told: Any) -> None:
    one, two = told["client"]["episodes"]
    assert one["info"]["task_id"] == two["info"]["task_id"]
    assert one["info"]["episode_id"] != two["info"]["episode_id"]


@pytest.mark.slow
def test_what_is_wrong_is_said_and_the_session_goes_on(told: Any) -> None:
    over, role, schema, argument, index, seed = told["client"]["refusals"]
    assert "this episode is over (answered)" in over
    assert "this episode is over" in role
    assert "VALIDATION_ERROR" in schema
    assert "'sead'" in argument
    assert "'seed'" in argument
    assert "from 0 to 2" in index
    assert "seed is a whole number from 0" in seed


@pytest.mark.slow
def test_sessions_are_bounded_and_web_pages_of_other_sites_get_none(told: Any) -> None:
    assert told["client"]["full"] == "CAPACITY_REACHED"
    assert told["replies"]["page"].status_code == 403
    assert told["replies"]["health"].json()["status"] == "healthy"
    assert {"message", "finish_reason"} <= told["replies"]["schema"].json()["action"]["properties"].keys()


@pytest.mark.slow
def test_the_server_ends_in_order_and_its_log_has_the_episodes(told: Any) -> None:
    assert told["ended"] == 0
    lines = [line for _, line in read_trajectories(told["log"] / "trajectories.jsonl")]
    assert [str(line.trajectory.stop_reason) for line in lines] == ["answered", "answered"]
    assert lines[0].scores.keys() == {"reference"}


@pytest.mark.skipif(importlib.util.find_spec("openenv") is not None, reason="openenv-core is installed here")
def test_without_openenv_the_message_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"\[openenv\]"):
        importlib.import_module("agentfly.environments.openenv")
