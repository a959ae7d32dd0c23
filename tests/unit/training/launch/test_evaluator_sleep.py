"""The evaluator servers of a run sleep and wake when they are told, and what goes wrong is one clear line."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from agentfly.errors import TrainingError
from agentfly.evaluators import ReferenceEvaluator, Score, evaluate_many
from agentfly.training.launch.evaluator_sleep import EvaluatorServers, servers_of
from agentfly.training.launch.launcher import Launch, launch
from agentfly.training.recipe.settings import TrainSettings
from tests.unit.training.launch.test_launcher import READY, TRAINER
from tests.unit.training.reward_server import SAMPLES, RewardServer, reward_server

NOWHERE = "http://127.0.0.1:9"
pytestmark = pytest.mark.slow

QUICK = {"timeout": 30, "attempts": 2, "first_wait": 0}


def settings(*addresses: str, out: Path = Path("runs/x"), guard: Any = QUICK, **values: Any) -> TrainSettings:
    """Settings of a run whose evaluator is a composite of one server each."""
    parts = {f"part {place}": {"evaluator": "http", "base_url": url} for place, url in enumerate(addresses)}
    evaluator = {"evaluator": "composite", "parts": {"kept": "structural", **parts}}
    given = {"evaluator": evaluator, "evaluator_sleep": True, "guard": guard, **values}
    return TrainSettings(model="m", out=out, data={"train": "stickers"}, device="cpu", **given)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def scores(server: RewardServer) -> list[Any]:
    async def ask() -> list[Any]:
        client = server.client()
        try:
            return await evaluate_many(client, SAMPLES)
        finally:
            await client.close()

    return asyncio.run(ask())


def test_scores_are_equal_before_and_after_a_sleep_that_the_run_asks_for() -> None:
    with reward_server() as server:
        servers = EvaluatorServers(settings(server.base_url))
        before = scores(server)
        assert all(isinstance(score, Score) for score in before)
        servers.sleep()
        assert all("sleeps: wake it first" in score.reason for score in scores(server))
        servers.wake()
        servers.wake()  # prompts are handed out more than once in a step
        assert scores(server) == before
        assert [path for path in server.paths if path != "evaluate"] == ["sleep", "wake", "wake"]
        metrics = servers.take_metrics()
        assert set(metrics) == {"timing_s/evaluator_sleep", "timing_s/evaluator_wake"}
        assert servers.take_metrics() == {}


def test_all_servers_are_told_those_of_the_audit_too() -> None:
    with reward_server() as one, reward_server() as other, reward_server() as audits:
        servers = EvaluatorServers(settings(one.base_url, other.base_url, audit={"evaluator": audits.spec}))
        servers.sleep()
        servers.wake()
        assert [server.paths for server in (one, other, audits)] == [["sleep", "wake"]] * 3


def test_nobody_is_told_anything_unless_the_recipe_says_so() -> None:
    with reward_server() as server:
        servers = EvaluatorServers(settings(server.base_url, evaluator_sleep=False))
        servers.sleep()
        servers.wake()
        assert servers.leave_awake() == []
        assert server.calls == []
        assert servers.take_metrics() == {}


def test_a_server_that_is_gone_ends_the_rollout_with_its_address() -> None:
    with reward_server() as server:
        servers = EvaluatorServers(settings(server.base_url, NOWHERE))
        with pytest.raises(TrainingError, match=f"evaluator_sleep did not wake: the evaluator at {NOWHERE} does not"):
            servers.wake()


def test_a_wake_that_fails_once_is_tried_again_and_one_that_fails_always_is_told() -> None:
    with reward_server() as server:
        server.refusals["/v1/wake"] = 500

        async def free() -> None:
            if len(server.calls) == 1:
                server.refusals.clear()

        server.before["/v1/wake"] = free
        servers = EvaluatorServers(settings(server.base_url))
        servers.wake()
        assert server.calls == [("/v1/wake", 500), ("/v1/wake", 200)]
        server.before.clear()
        server.refusals["/v1/wake"] = 401
        with pytest.raises(TrainingError, match="HTTP 401: refused; set AGENTFLY_EVALUATOR_KEY"):
            servers.wake()
        assert len(server.calls) == 3  # another key would not be found by trying


def test_a_server_that_hangs_is_waited_for_no_longer_than_for_a_score() -> None:
    with reward_server() as server:
        server.before["/v1/wake"] = asyncio.Event().wait
        limits = {"timeout": 0.05, "attempts": 2, "first_wait": 0}
        with pytest.raises(TrainingError, match=r"did not answer within 0\.05 s \(agentfly\.guard\.timeout\)"):
            EvaluatorServers(settings(server.base_url, guard=limits)).wake()


def test_a_sleep_that_fails_is_one_warning_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with reward_server() as server:
        server.refusals["/v1/sleep"] = 500
        servers = EvaluatorServers(settings(server.base_url))
        servers.sleep()
        servers.sleep()
        assert server.paths == ["sleep", "sleep"]
        [said] = warnings(caplog)
        assert said == (
            f"the model of an evaluator stays on its device during updates: the evaluator at {server.base_url}: HTTP "
            "500: refused; training goes on"
        )


def test_a_server_without_a_model_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with reward_server(ReferenceEvaluator()) as server:
        servers = EvaluatorServers(settings(server.base_url))
        servers.sleep()
        servers.wake()
        servers.sleep()
        [said] = warnings(caplog)
        assert "has no model that could sleep" in said
        assert "leave agentfly.evaluator_sleep out; training goes on" in said


def test_a_run_has_one_object_for_its_servers_in_a_process() -> None:
    one, other = settings(NOWHERE), settings(NOWHERE)
    assert servers_of(one) is servers_of(one)
    assert servers_of(one) is not servers_of(other)


@pytest.mark.parametrize("body", [READY + "step(1)", "sys.exit(1)"])
def test_a_run_leaves_its_servers_awake_however_it_ends(body: str, tmp_path: Path) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER.format(body=body))
    notices: list[str] = []

    def run(address: str) -> None:
        made = settings(address, out=tmp_path / "run")
        given = Launch(made.out / "config.yaml", made, 1)
        if "exit" in body:
            with pytest.raises(TrainingError):
                launch(given, on_notice=notices.append, driver=(str(script),))
        else:
            launch(given, on_notice=notices.append, driver=(str(script),))

    with reward_server() as server:
        EvaluatorServers(settings(server.base_url)).sleep()
        run(server.base_url)
        assert server.paths == ["sleep", "wake"]
        assert all(isinstance(score, Score) for score in scores(server))
        assert notices == []
    run(server.base_url)
    assert [notice.partition(" (")[0] for notice in notices] == [
        f"an evaluator is left asleep: the evaluator at {server.base_url} does not answer"
    ]
