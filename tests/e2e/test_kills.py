"""kill -9 of every part of a real run: it ends with the cause, leaves nothing behind, and resumes exactly.

One run goes on undisturbed for some steps, loses its image server, waits for another, and then loses its launcher. A
second run of the same seed loses its rollout engine, its rollout worker and its trainer, one after the other, each time
at a random moment.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents import StopReason, Trajectory
from agentfly.datasets import StickerWorld
from agentfly.errors import TrainingError
from agentfly.process_tree import ProcessFamily
from agentfly.training.launch.checkpoints import newest_checkpoint, step_of
from agentfly.training.launch.launcher import launch
from agentfly.training.launch.prepare import prepare
from agentfly.training.recipe.compose import CONFIG_DIR, compose, to_override
from agentfly.training.recipe.verl_dataset import write_rows
from tests.unit.serving.image_server.running import command, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

# Steps of both runs, because the learning rate depends on their number. The first ones are compared: until then the one
# run is undisturbed, and the other is killed three times, at most three steps after each start.
STEPS, COMPARED, PROMPTS, SAMPLES = 16, 10, 2, 2
STEP_SECONDS = 1.0  # about
SEED = 11  # of the run, and of the moments of the kills
# Processes that are killed, in turn: their title, and a pattern for the first line of the error.
KILLED = (
    ("VLLM::EngineCore", r"EngineCore|EngineDead"),
    ("ray::AgentFlyLoopWorker", r"LoopWorker"),
    ("ray::TaskRunner", r"TaskRunner|ActorDied|died"),
)
ERROR_SECONDS = 60.0
POLL_SECONDS = 0.5  # logs are read each time, beside runs whose end is timed
RECIPE = CONFIG_DIR / "stickers.yaml"
SERVER = "python -m agentfly.cli serve-images --model-type classical --workers 1"

Line = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Files that the runs share: a policy that calls tools, and tasks."""

    folder: Path
    policy: Path
    tasks: Path


@pytest.fixture(scope="module")
def world(warm_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder, stickers = tmp_path_factory.mktemp("kills"), StickerWorld()
    tasks = [stickers.task(index, "train", "named", seed=SEED) for index in range(8)]
    return World(folder, warm_policy, write_rows(tasks, folder / "data", "train"))


def overrides(world: World, out: Path, server: str) -> list[str]:
    values = {
        "agentfly.model": world.policy,
        "agentfly.out": out,
        "agentfly.seed": SEED,
        "agentfly.threads": 1,
        "agentfly.data.train": world.tasks,
        "agentfly.client_nodes": [server.removeprefix("http://")],
        "agentfly.limits.tool_timeout": 5,
        # A killed server comes back after a while.
        "agentfly.lost_chains": {"attempts": 10, "pause": 5},
        "data.train_batch_size": PROMPTS,
        "actor_rollout_ref.rollout.n": SAMPLES,
        "actor_rollout_ref.actor.optim.lr": 1e-4,
        "trainer.total_training_steps": STEPS,
        "trainer.save_freq": 1,
    }
    return [to_override(key, value) for key, value in values.items()]


def lines_of(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def chains_of(out: Path) -> dict[tuple[int, str], Trajectory]:
    """Return the chains of a run by step and id; check that none is there twice."""
    lines = lines_of(out / "trajectories.jsonl")
    twice = [key for key, count in Counter((x["step"], x["trajectory"]["id"]) for x in lines).items() if count > 1]
    assert twice == []
    return {(line["step"], line["trajectory"]["id"]): Trajectory.from_dict(line["trajectory"]) for line in lines}


def steps_of(out: Path) -> list[int]:
    return [line["step"] for line in lines_of(out / "metrics.jsonl")]


@dataclass
class Traces:
    """Everything that the processes of a run leave without a cleanup."""

    run: str
    scratch: Path
    segments: set[str]

    @classmethod
    def of(cls, out: Path) -> Traces:
        """Return the traces of the newest run in a folder, which must be running."""
        run = max((out / "logs").glob("*.log")).stem
        scratch, segments = None, set()
        for pid in ProcessFamily(run).members():
            try:
                maps, environment = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("maps", "environ"))
            except OSError:
                continue
            segments |= set(re.findall(r"/dev/shm/\S+", maps.decode(errors="replace")))
            if found := re.search(rb"(?:^|\0)RAY_TMPDIR=([^\0]+)", environment):
                scratch = Path(found[1].decode())
        assert scratch is not None
        assert scratch.is_dir()
        assert segments, "Ray's object store is in shared memory"
        return cls(run, scratch, segments)

    def left(self) -> list[str]:
        """Return the processes, folders and segments that are still there."""
        living = ProcessFamily(self.run).titles()
        return [
            *(f"{pid} {title}" for pid, title in living.items()),
            *([str(self.scratch)] if self.scratch.exists() else []),
            *(segment for segment in self.segments if Path(segment).exists()),
        ]


@dataclass
class Kill:
    """Kill a process of a run from a thread, some time after the first step was reported."""

    out: Path
    title: str
    delay: float
    killed: float = 0.0
    traces: Traces | None = None
    steps: list[int] = field(default_factory=list)
    thread: threading.Thread | None = None

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append(step)
        if self.thread is None:
            self.thread = threading.Thread(target=self._kill)
            self.thread.start()

    def _kill(self) -> None:
        due = time.monotonic() + self.delay
        self.traces = Traces.of(self.out)
        titles = ProcessFamily(self.traces.run).titles()
        found = [pid for pid, title in titles.items() if title.startswith(self.title)]
        assert len(found) == 1, f"{self.title} is not one of {titles}"
        time.sleep(max(0.0, due - time.monotonic()))
        os.kill(found[0], signal.SIGKILL)
        self.killed = time.monotonic()


@contextmanager
def trained_by_command(
    world: World, out: Path
) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], str]]:
    """Start `agentfly train` and an image server; yield both processes and the server's address."""
    with command(SERVER) as (server, url):
        line = [sys.executable, "-m", "agentfly.cli", "train", str(RECIPE), *overrides(world, out, url)]
        training = subprocess.Popen(line)
        try:
            yield training, server, url
        finally:
            training.terminate()
            training.wait(60)


@pytest.fixture(scope="module")
def undisturbed(world: World) -> Path:
    """Return the folder of a run that is undisturbed for the steps that are compared.

    Then it loses its image server, waits until that is back, and loses its launcher two steps later. The checks of its
    behaviour are here.
    """
    out = world.folder / "undisturbed"
    with trained_by_command(world, out) as (training, server, url):

        def reached(step: int) -> bool:
            return training.poll() is not None or max(steps_of(out), default=0) >= step

        def lost() -> list[Trajectory]:
            return [chain for chain in chains_of(out).values() if chain.stop_reason is StopReason.TOOL_OUTAGE]

        wait_for(lambda: reached(COMPARED), 900, POLL_SECONDS)
        server.kill()
        last = max(steps_of(out))
        # The policy chooses its tools: not every step needs the server.
        wait_for(lambda: training.poll() is not None or lost(), 300, POLL_SECONDS)
        assert all("no image server" in (chain.error or "") and chain.reward is None for chain in lost())
        with command(SERVER, port=int(url.rpartition(":")[2])):
            wait_for(lambda: reached(last + 2), 300, POLL_SECONDS)
        assert training.poll() is None, "the run ended with its image server"

        traces = Traces.of(out)
        training.kill()
        began = time.monotonic()
        wait_for(lambda: not traces.left(), 60, POLL_SECONDS)
        print(f"nothing is left {time.monotonic() - began:.1f} s after the launcher was killed")
    return out


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Yield the address of the disturbed run's image server, which is never killed."""
    with command(SERVER) as (_, url):
        yield url


@pytest.fixture(scope="module")
def disturbed(world: World, server: str) -> Path:
    """Return the folder of the same run, killed three times and resumed; the errors are checked here."""
    out, rng = world.folder / "disturbed", random.Random(SEED)
    for title, cause in KILLED:
        before = steps_of(out)
        kill = Kill(out, title, delay=rng.uniform(0.0, STEP_SECONDS))
        with pytest.raises(TrainingError) as error:
            launch(prepare(compose(RECIPE, overrides(world, out, server))), on_step=kill.on_step)
        took = time.monotonic() - kill.killed
        first = str(error.value).splitlines()[0]
        print(f"{title} killed {kill.delay:.1f} s after step {kill.steps}: {took:.1f} s later {first}")
        assert kill.traces is not None
        assert kill.traces.left() == []
        assert took < ERROR_SECONDS
        assert re.search(cause, first)
        # No reported step is repeated, and at most one step was finished but not reported.
        assert kill.steps[0] - max(before, default=0) in (1, 2)
    outcome = launch(prepare(compose(RECIPE, overrides(world, out, server))))
    assert outcome.checkpoint is not None
    assert outcome.checkpoint.name == f"global_step_{STEPS}"
    return out


def test_every_step_is_there_once(disturbed: Path) -> None:
    assert len(chains_of(disturbed)) == STEPS * PROMPTS * SAMPLES
    steps = steps_of(disturbed)
    assert steps == sorted(set(steps))
    # verl writes a step's metrics after its checkpoint: after a kill in between they are missing.
    assert len(set(range(1, STEPS + 1)) - set(steps)) <= len(KILLED)


def test_one_step_is_lost_at_most(disturbed: Path) -> None:
    """Chains of the unfinished step are kept aside, and the step is repeated."""
    kept = chains_of(disturbed)
    for path in (disturbed / "logs").glob("*.repeated.trajectories.jsonl"):
        lost = lines_of(path)
        assert len({line["step"] for line in lost}) == 1
        assert all((line["step"], line["trajectory"]["id"]) in kept for line in lost)


def test_data_and_rollouts_are_those_of_the_run_without_kills(undisturbed: Path, disturbed: Path) -> None:
    resumed, whole = (
        {key: chain for key, chain in chains_of(out).items() if key[0] <= COMPARED} for out in (disturbed, undisturbed)
    )
    assert len(whole) == COMPARED * PROMPTS * SAMPLES
    assert resumed.keys() == whole.keys()
    same = {key: sampled(resumed[key]) == sampled(whole[key]) for key in whole}
    print(Counter((step, equal) for (step, _), equal in same.items()))
    assert all(same.values())
    assert [resumed[key].reward for key in whole] == [chain.reward for chain in whole.values()]


def sampled(chain: Trajectory) -> list[int]:
    assert chain.tokens is not None
    return chain.tokens.ids


def test_a_run_outlives_its_image_server_and_nothing_outlives_its_launcher(undisturbed: Path) -> None:
    """The fixture checks most of it. No step was trained on fewer chains while the server was away."""
    steps = [line["data"] for line in lines_of(undisturbed / "metrics.jsonl")]
    assert all(step["chains/lost_share"] == 0 or step["chains/sampled_again"] > 0 for step in steps)
    assert any(step["chains/lost"] > 0 for step in steps)
    assert step_of(newest_checkpoint(undisturbed / "checkpoints")) > COMPARED
