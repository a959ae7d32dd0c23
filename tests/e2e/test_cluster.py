"""A Ray cluster of two nodes: it loses a node and an engine, and trains as one accelerator does.

The Slurm script starts the cluster, and a run with a rank on each node joins it. In its second step the run loses a
node, with all that runs there. The same job, started again, continues, and loses one of two rollout engines in its
third step. One machine with two accelerators and one engine on both takes that step. All of it is compared with a run
on one accelerator that nothing happens to: chains and losses of each step are the same.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from agentfly.process_tree import MARKER, ProcessFamily
from agentfly.training.launch.launcher import launch
from agentfly.training.launch.prepare import prepare
from agentfly.training.recipe.compose import compose
from tests.e2e.test_kills import chains_of, lines_of, sampled, steps_of
from tests.e2e.test_recipes import RECIPES, small

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parents[2]
# Nodes of Ray with addresses of their own.
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
# Slurm's commands on one machine: options are left out, and a node of Ray has one accelerator.
SLURM = {
    "scontrol": "printf 'first\\nsecond\\n'",
    "srun": f"""while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done
if [[ $1 == hostname ]]; then echo {FIRST}; exit; fi
[[ "$*" == *--head* ]] || set -- "$@" --node-ip-address={SECOND}
exec "$@" --num-cpus=16 --num-gpus=1 --object-store-memory=200000000""",
}
STEPS = 3
POLL_SECONDS = 0.2
ERROR_SECONDS = 90.0
RUN = (
    "agentfly.evaluator='tests.e2e.scores:Fated'",
    # The batches of both ranks are uneven, and no step is sampled again.
    "agentfly.lost_chains={share: 0.9, pause: 0}",
    "actor_rollout_ref.actor.optim.lr=1e-4",
    "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
    f"trainer.total_training_steps={STEPS}",
    "trainer.save_freq=1",
)
# Compared between the runs, to within 1e-5.
LOSSES = ("actor/pg_loss", "actor/entropy", "actor/grad_norm", "reward/mean")


def overrides(policy: Path, out: Path, *, nodes: int = 1, accelerators: int = 1, divided: int = 1) -> list[str]:
    return [
        *small("multi_node_ray", policy, out),
        *RUN,
        f"trainer.nnodes={nodes}",
        f"trainer.n_gpus_per_node={accelerators}",
        f"ray_kwargs.ray_init.num_gpus={accelerators}",
        f"actor_rollout_ref.rollout.tensor_model_parallel_size={divided}",
        # The heads of the vision tower cannot be divided by two.
        *(["+actor_rollout_ref.rollout.engine_kwargs.vllm.mm_encoder_tp_mode=data"] if divided > 1 else []),
    ]


@dataclass
class Job:
    """A Slurm job of two nodes on this machine."""

    folder: Path
    policy: Path
    out: Path

    def environment(self, marker: str) -> dict[str, str]:
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        for name, body in SLURM.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
            (programs / name).chmod(0o755)
        with socket.socket() as probe:
            probe.bind((FIRST, 0))
            port = probe.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return environment | {
            "PATH": os.pathsep.join((str(programs), sysconfig.get_path("scripts"), os.environ["PATH"])),
            MARKER: marker,
            "HOME": str(self.folder),  # where Ray's token is
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_NODELIST": "first,second",
            "SLURM_NNODES": "2",
            "RAY_PORT": str(port),
            # What a person sets on nodes that are shared with other work.
            "RAY_worker_niceness": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_worker_register_timeout_seconds": "600",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }

    @contextlib.contextmanager
    def started(self) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Start the job; yield its first process and the file with its output. At the end, end what its nodes run."""
        marker = secrets.token_hex(8)
        said = self.folder / f"{marker}.txt"
        command = ["bash", "recipes/multi_node_ray.slurm", *overrides(self.policy, self.out, nodes=2)]
        with said.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment(marker), stdout=output, stderr=output)
            try:
                yield process, said
            finally:
                ProcessFamily(marker).end()
                process.wait(60)

    def loses(self, kill: Callable[[], None], after: int) -> str:
        """Start the job, kill something in the step after one that is done; return the line with the cause."""
        with self.started() as (process, said):
            while process.poll() is None and max(steps_of(self.out), default=0) < after:
                time.sleep(POLL_SECONDS)
            assert process.poll() is None, said.read_text(encoding="utf-8")
            kill()
            began = time.monotonic()
            process.wait(600)
            took = time.monotonic() - began
            run = max((self.out / "logs").glob("*.log")).stem
            assert ProcessFamily(run).titles() == {}
        text = said.read_text(encoding="utf-8")
        line = next((line for line in text.splitlines() if f"step {after + 1}'" in line), text)
        print(f"{took:.1f} s later: {line}")
        assert process.returncode == 1
        assert took < ERROR_SECONDS
        return line


def kill_second_node() -> None:
    """Kill a node of Ray with everything that runs there, as if its machine had lost its power."""
    [start] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"start", "--block", f"--node-ip-address={SECOND}"} <= set(process.info["cmdline"] or ())
    ]
    for process in [start, *start.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def job(folder: Path, warm_policy: Path) -> Job:
    return Job(folder, warm_policy, folder / "run")


@pytest.fixture(scope="module")
def alone(folder: Path, warm_policy: Path) -> Path:
    """Return the folder of the run on one accelerator that nothing happens to."""
    out = folder / "alone"
    launch(prepare(compose(RECIPES / "multi_node_ray.yaml", overrides(warm_policy, out))))
    return out


@pytest.fixture(scope="module")
def moved(job: Job) -> Path:
    """Return the folder of a run that loses a node and an engine, and ends on one machine; the errors are checked."""
    line = job.loses(kill_second_node, after=1)
    assert re.search(rf"(node|machine) {re.escape(SECOND)} of the Ray cluster is gone", line)
    assert steps_of(job.out) == [1]

    def kill_engine() -> None:
        run = max((job.out / "logs").glob("*.log")).stem
        titles = ProcessFamily(run).titles()
        engines = [pid for pid, title in titles.items() if title.startswith("VLLM::EngineCore")]
        assert len(engines) == 2, titles
        os.kill(engines[1], signal.SIGKILL)

    assert re.search("EngineCore|EngineDead", job.loses(kill_engine, after=2))
    assert steps_of(job.out) == [1, 2]
    log = max((job.out / "logs").glob("*.log")).read_text(encoding="utf-8")
    # Each node has one accelerator, so the two ranks and the two rollout engines are on different ones.
    for worker in ("WorkerDict", "vLLMHttpServer"):
        assert len(set(re.findall(rf"{worker} pid=(\d+)", log))) == 2
    rest = overrides(job.policy, job.out, accelerators=2, divided=2)
    outcome = launch(prepare(compose(RECIPES / "multi_node_ray.yaml", rest)))
    assert [step for step, _ in outcome.metrics] == [STEPS]
    return job.out


def test_chains_and_losses_do_not_depend_on_the_number_of_accelerators(moved: Path, alone: Path) -> None:
    chains, others = chains_of(moved), chains_of(alone)
    assert chains.keys() == others.keys()
    assert all(sampled(chains[key]) == sampled(others[key]) for key in chains)
    steps, expected = (
        {line["step"]: line["data"] for line in lines_of(out / "metrics.jsonl")} for out in (moved, alone)
    )
    assert list(steps) == list(expected) == [1, 2, 3]
    differences = {(step, name): abs(steps[step][name] - expected[step][name]) for step in steps for name in LOSSES}
    print(differences)
    assert max(differences.values()) < 1e-5
    assert not any(math.isnan(step["actor/pg_loss"]) for step in steps.values())


def test_uneven_batches_are_trained_on(moved: Path) -> None:
    """Eight chains are a mini-batch, four for each rank; verl fills it up where one was not scored."""
    steps = [line["data"] for line in lines_of(moved / "metrics.jsonl")]
    assert any(0 < step["chains/lost"] < 8 for step in steps)
    assert all(step["actor/grad_norm"] > 0 for step in steps)
    assert all(step["training/rollout_probs_diff_max"] < 1e-3 for step in steps)
