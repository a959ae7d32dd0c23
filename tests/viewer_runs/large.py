"""Runs of the sizes that the benchmark measures, written as copies of one real chain."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agentfly.agents import StopReason, Trajectory
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, TrajectoryLine
from agentfly.images import ImageStore
from tests.viewer_runs.chains import Policy, play, tasks_of

IMAGES_OF_LARGE = 16  # tasks whose images the copies share
_CHAINS_A_GROUP = 8
_GROUPS_A_STEP = 16
_MARK = "\ue000"  # stands where the copies differ


def many_chains(folder: Path, count: int = 50_000) -> Path:
    """Write a training run of `count` chains of two or three turns, and return its folder."""
    return _write(folder, count)


def long_chains(folder: Path, count: int = 1_000, turns: int = 100) -> Path:
    """Write a training run of `count` chains of `turns` turns each, and return its folder."""
    return _write(folder, count, _longer(turns))


def log_of_bytes(folder: Path, size: int = 127_000_000) -> Path:
    """Write a training run whose `trajectories.jsonl` has about `size` bytes, of chains of 100 turns."""
    return _write(folder, size, _longer(100), size)


def _longer(turns: int) -> Callable[[Trajectory], Trajectory]:
    """Return a function that gives a chain more turns: its first turn again and again, with its ids."""

    def change(chain: Trajectory) -> Trajectory:
        first = next(i for i, message in enumerate(chain.messages) if message.role == "assistant")
        turn, tokens = chain.turns[0], chain.tokens
        chain.messages = [*chain.messages[:first], *chain.messages[first : first + 2] * turns]
        chain.stop_reason, length = StopReason.MAX_TURNS, turn.end - turn.start
        chain.turns = [replace(turn, start=length * place, end=length * (place + 1)) for place in range(turns)]
        if tokens is not None:
            tokens.response_ids = tokens.response_ids[turn.start : turn.end] * turns
            tokens.mask, tokens.logprobs = [1] * length * turns, tokens.logprobs[turn.start : turn.end] * turns
        return chain

    return change


def _write(
    folder: Path, count: int, change: Callable[[Trajectory], Trajectory] = lambda chain: chain, size: float = math.inf
) -> Path:
    """Write `count` chains, or fewer of about `size` bytes."""
    store = ImageStore(folder / IMAGES)
    tasks = tasks_of(IMAGES_OF_LARGE)
    played = play(tasks, [task.id for task in tasks], 1, store, Policy(0.6, 0.0, 1))
    forms = [_form(change(chain)) for (chain,) in played]
    step_size, written, step = _CHAINS_A_GROUP * _GROUPS_A_STEP, 0, 0
    with (folder / FILE_NAME).open("w", encoding="utf-8") as file:
        for number in range(count):
            step, place = 1 + number // step_size, number % step_size
            group = f"step-{step}-row-{place // _CHAINS_A_GROUP}"
            score = (number * 37 % 1001) / 10
            text = forms[place // _CHAINS_A_GROUP % len(forms)]
            text = text.replace(f'"{_MARK}step"', str(step)).replace(f"{_MARK}group", group)
            text = text.replace(f'"{_MARK}score"', str(score)).replace(f'"{_MARK}reward"', str(score / 100))
            written += file.write(text.replace(f"{_MARK}chain", f"{group}-{place % _CHAINS_A_GROUP}"))
            if written >= size:
                break
    data = [{"step": step, "data": {"reward/mean": 0.5}} for step in range(1, step + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in data), encoding="utf-8")
    return folder


def _form(chain: Trajectory) -> str:
    """Return the line of a chain with marks in the places where its copies differ."""
    line = json.loads(TrajectoryLine.of_chain(chain, step=1, validate=False).to_json())
    line["step"] = f"{_MARK}step"
    line["trajectory"] |= {
        "id": f"{_MARK}chain",
        "group_id": f"{_MARK}group",
        "score": f"{_MARK}score",
        "reward": f"{_MARK}reward",
    }
    return json.dumps(line, ensure_ascii=False) + "\n"
