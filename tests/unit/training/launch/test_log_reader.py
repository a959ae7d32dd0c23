"""Phases, errors and numbers are read from the lines that Ray and verl really write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.training.launch.log_reader import (
    LineReader,
    PhaseReader,
    clean,
    last_error,
    notice_in,
    parse_metrics,
    steps_so_far,
)

LOG = [
    "INFO:2026-11-21 05:49:47,714:Platform override from VERL_PLATFORM: cpu",
    "2026-11-21 05:49:54,309\tINFO worker.py:2038 -- Started a local Ray instance.",
    "\x1b[36m(WorkerDict pid=9234)\x1b[0m Monkey patch Qwen2_5_VLForConditionalGeneration model forward",
    "\x1b[36m(TaskRunnerV1 pid=9068)\x1b[0m INFO:2026-11-21 05:50:24,276:reward loop manager initialized",
    "\x1b[36m(vLLMHttpServer pid=9484)\x1b[0m ['serve',",
    "\x1b[36m(TaskRunnerV1 pid=9068)\x1b[0m INFO:2026-11-21 05:50:59,483:all initialize finished, ready to fit",
    "Training Progress:   0%|          | 0/2 [00:00<?, ?it/s]",
]


def test_phases_come_in_order_and_once() -> None:
    reader = PhaseReader()
    assert [reader.read(line) for line in LOG] == [[], ["workers"], [], ["engine"], [], ["training"], []]


def test_a_missing_line_does_not_lose_a_phase() -> None:
    reader = PhaseReader()
    assert reader.read(LOG[1]) == ["workers"]
    assert reader.read(LOG[-1]) == ["engine", "training"]


def test_reads_only_whole_new_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    reader = LineReader(path)
    assert reader.new_lines() == []
    path.write_bytes(b"one\ntw")
    assert reader.new_lines() == ["one"]
    with path.open("ab") as file:
        file.write(b"o\n\xff\n")
    assert reader.new_lines() == ["two", "�"]
    assert reader.new_lines() == []


def test_metrics_keep_finite_numbers_only() -> None:
    line = json.dumps({"step": 3, "data": {"a": 1, "b": 2.5, "c": None, "d": "text", "e": [1]}})
    assert parse_metrics(line) == (3, {"a": 1.0, "b": 2.5})


def test_the_steps_so_far_are_those_of_training(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert steps_so_far(log) == []
    log.write_text("".join(json.dumps({"step": step, "data": {"a": step}}) + "\n" for step in (0, 1, 2)))
    assert steps_so_far(log) == [{"a": 1.0}, {"a": 2.0}]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("ValueError: no such model", "ValueError: no such model"),
        ("\x1b[36m(WorkerDict pid=12)\x1b[0m torch.OutOfMemoryError: too much", "torch.OutOfMemoryError: too much"),
        ("(TaskRunnerV1 pid=12) ray.exceptions.ActorDiedError: gone", "ray.exceptions.ActorDiedError: gone"),
        ("WARNING: TypeError is not raised here", None),
        ("ray.exceptions.RayTaskError(ValueError): \x1b[36mray::TaskRunnerV1.run()\x1b[39m (pid=1)", None),
    ],
)
def test_finds_the_error_behind_rays_prefixes(line: str, error: str | None) -> None:
    assert last_error(["ordinary line", line, "  File 'x.py', line 3"]) == error


def test_the_last_error_counts() -> None:
    assert last_error(["KeyError: 'a'", "RuntimeError: b", "done"]) == "RuntimeError: b"


def test_an_actor_that_died_is_named() -> None:
    log = [
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
        "\tclass_name: AgentFlyLoopWorker",
        "\tactor_id: 0123",
        "\tpid: 4711",
        "\tnamespace: 89ab",
        "The actor is dead because its worker process has died.",
    ]
    error = f"{log[0]} (AgentFlyLoopWorker, pid 4711)"
    assert last_error(log) == error
    assert last_error([f"\x1b[36m(TaskRunnerV1 pid=9)\x1b[0m {line}" for line in log]) == error


def test_clean_removes_colours_and_process_names() -> None:
    assert clean("\x1b[36m(EngineCore pid=96)\x1b[0m ready \n") == "ready"


def test_a_notice_is_found_behind_rays_prefixes() -> None:
    line = (
        "\x1b[36m(TaskRunnerV1 pid=7)\x1b[0m WARNING:agentfly.training.verl.replay_buffer:"
        "agentfly notice: step 1 is sampled again"
    )
    assert notice_in(line) == "step 1 is sampled again"
    assert notice_in("(TaskRunnerV1 pid=7) step 1") is None
