"""Limits end a run that hangs, and not one that is only slow."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentfly.training.launch import watchdogs as room
from agentfly.training.launch.log_reader import SAMPLED, Phase
from agentfly.training.launch.watchdogs import Watchdogs
from agentfly.training.recipe.settings import DataSettings, Patience, TrainSettings

LIMIT = 10.0


class Clock:
    """Clock that the test moves, and the part that the trainer would be in."""

    def __init__(self) -> None:
        self.now = 100.0
        self.part: str | None = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(room, "part_in_progress", lambda folder: clock.part)
    return clock


@pytest.fixture
def watchdogs(clock: Clock, tmp_path: Path) -> Watchdogs:
    patience = Patience(ray=LIMIT, start=LIMIT, rollout=LIMIT, update=LIMIT)
    settings = TrainSettings(
        model="m",
        out=tmp_path,
        data=DataSettings(train="stickers"),
        limits={"wall_clock": 0.1},
        guard={"timeout": 0.1, "attempts": 1},
        patience=patience,
    )
    return Watchdogs(settings, steps=5, stacks=tmp_path)


def alarm_after(
    watchdogs: Watchdogs, clock: Clock, begun: dict[Phase, float], each_second: Callable[[int], None]
) -> int:
    """Poll every second, and return the seconds until the alarm; 50 when there is none."""
    for second in range(50):
        clock.now += 1
        each_second(second)
        if watchdogs.check_time(begun, 0) is not None:
            return second + 1
    return 50


def started(clock: Clock) -> dict[Phase, float]:
    return {"ray": clock.now, "workers": clock.now, "engine": clock.now, "training": clock.now}


def test_a_start_that_says_new_things_may_take_long(watchdogs: Watchdogs, clock: Clock) -> None:
    words = itertools.cycle(["loading"])
    begun: dict[Phase, float] = {"ray": clock.now, "workers": clock.now}
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert (
        alarm_after(watchdogs, clock, begun, lambda _: watchdogs.note_line(f"{next(words)} module {next(letters)}"))
        == 50
    )


def test_a_line_that_repeats_with_other_numbers_is_no_progress(watchdogs: Watchdogs, clock: Clock) -> None:
    """Ray logs every few seconds that it waits for a resource that will never come."""
    begun: dict[Phase, float] = {"ray": clock.now, "workers": clock.now}
    seconds = alarm_after(
        watchdogs, clock, begun, lambda s: watchdogs.note_line(f"(autoscaler +{s}s) no node can provide 1.0 GPU")
    )
    assert seconds == LIMIT + 2


def test_rollouts_go_on_while_chains_are_finished(watchdogs: Watchdogs, clock: Clock) -> None:
    assert alarm_after(watchdogs, clock, started(clock), lambda s: watchdogs.note_chains(100 * (s // 5 + 1))) == 50


def test_rollouts_without_a_finished_chain_hang(watchdogs: Watchdogs, clock: Clock) -> None:
    watchdogs.note_chains(500)
    assert alarm_after(watchdogs, clock, started(clock), lambda s: watchdogs.note_chains(500)) == LIMIT + 1


def parts(*durations: tuple[str, int]) -> Iterator[str]:
    for name, seconds in durations:
        yield from [name] * seconds


def test_each_part_of_an_update_has_the_limit_for_itself(watchdogs: Watchdogs, clock: Clock) -> None:
    watchdogs.note_line(f"{SAMPLED} 1")
    reported = parts(("log-probs", 8), ("update", 8), ("weight synchronisation", 99))

    def go_on(_: int) -> None:
        clock.part = next(reported)

    # Two parts of 8 seconds, then the limit of the third, to within a look.
    assert 8 + 8 + LIMIT <= alarm_after(watchdogs, clock, started(clock), go_on) <= 8 + 8 + LIMIT + 2


def test_the_alarm_names_the_part(watchdogs: Watchdogs, clock: Clock) -> None:
    watchdogs.note_line(f"{SAMPLED} 1")
    clock.part, clock.now = "weight synchronisation", clock.now + 6
    assert watchdogs.check_time(started(clock), 0) is None
    clock.now += 6
    found = watchdogs.check_time(started(clock), 0)
    assert found is not None
    assert "weight synchronisation" in found.message


def test_a_worker_that_dies_between_two_looks_is_missed_by_the_log(watchdogs: Watchdogs, clock: Clock) -> None:
    watchdogs.note_line("\x1b[36m(AgentFlyLoopWorker pid=41)\x1b[0m Using dataset class")
    watchdogs.note_line("\x1b[36m(Extra pid=42)\x1b[0m a worker that nobody needs")
    for pid in (42, 41):
        assert watchdogs.check_members({}, 1) is None
        watchdogs.note_line(
            f"(raylet) A worker died or was killed while executing a task. Worker PID: {pid} Worker exit"
        )
    assert watchdogs.check_members({7: "python"}, 1) is None
    clock.now += 21
    alarm = watchdogs.check_members({7: "python"}, 1)
    assert alarm is not None
    assert (alarm.message, alarm.hung) == ("process 41 (AgentFlyLoopWorker) of the run is gone", False)


def test_a_process_that_was_seen_and_is_no_more_is_missed(watchdogs: Watchdogs, clock: Clock) -> None:
    assert watchdogs.check_members({5: "VLLM::EngineCore", 6: "sleep"}, 1) is None
    assert watchdogs.check_members({}, 1) is None
    clock.now += 21
    alarm = watchdogs.check_members({}, 1)
    assert alarm is not None
    assert "EngineCore" in alarm.message
    assert watchdogs.check_members({}, 5) is None  # after the last step verl ends them


def dead_node(address: str) -> str:
    """Return Ray's line about a machine that is gone, as its driver prints it."""
    return (
        f"\x1b[33m(raylet)\x1b[0m The node with node id: 1bce7 and address: {address} and node name: {address} "
        "has been marked dead because the detector has missed too many heartbeats from it."
    )


def test_a_machine_that_is_gone_is_named(watchdogs: Watchdogs, clock: Clock) -> None:
    """Nobody sees the processes of another machine, and the line of their death died with its raylet."""
    watchdogs.note_line("\x1b[36m(WorkerDict pid=41, ip=10.0.0.2)\x1b[0m init")
    watchdogs.note_line("\x1b[36m(vLLMHttpServer pid=42, ip=10.0.0.2)\x1b[0m init")
    watchdogs.note_line(dead_node("10.0.0.2"))
    assert watchdogs.check_members({7: "python"}, 1) is None
    clock.now += 21
    alarm = watchdogs.check_members({7: "python"}, 1)
    assert alarm is not None
    assert alarm.message == "machine 10.0.0.2 of the Ray cluster is gone, with WorkerDict, vLLMHttpServer"


def test_a_machine_that_is_gone_is_the_cause_of_its_processes_end(watchdogs: Watchdogs, clock: Clock) -> None:
    watchdogs.note_line("(WorkerDict pid=41, ip=10.0.0.2) init")
    assert watchdogs.check_members({41: "ray::WorkerDict"}, 1) is None
    assert watchdogs.check_members({7: "python"}, 1) is None
    clock.now += 21
    watchdogs.note_line(dead_node("10.0.0.2"))
    alarm = watchdogs.check_members({7: "python"}, 1)
    assert alarm is not None
    assert alarm.message.startswith("machine 10.0.0.2")


def test_a_machine_that_the_run_does_not_use_is_not_missed(watchdogs: Watchdogs, clock: Clock) -> None:
    watchdogs.note_line("(WorkerDict pid=41, ip=10.0.0.2) init")
    watchdogs.note_line(dead_node("10.0.0.3"))
    assert watchdogs.check_members({7: "python"}, 1) is None
    clock.now += 21
    assert watchdogs.check_members({7: "python"}, 1) is None


def test_an_engine_that_is_gone_on_another_machine_is_missed(watchdogs: Watchdogs, clock: Clock) -> None:
    watchdogs.note_line(
        "(vLLMHttpServer pid=42, ip=10.0.0.2) WARNING [core_client.py:702] [shutdown] MPClient: engine core exited "
        "unexpectedly; starting cleanup"
    )
    assert watchdogs.check_members({7: "python"}, 1) is None
    clock.now += 21
    alarm = watchdogs.check_members({7: "python"}, 1)
    assert alarm is not None
    assert alarm.message == "the rollout engine of process 42 (vLLMHttpServer) is gone"
    assert "engine core exited unexpectedly" in source_of("vllm.v1.engine.core_client")


def source_of(module: str) -> str:
    """Return the text of an installed module, which is not imported."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None or spec.origin is None:
        pytest.skip(f"{module} is not installed")
    return (Path(spec.origin).parent / Path(*module.split(".")[1:])).with_suffix(".py").read_text(encoding="utf-8")
