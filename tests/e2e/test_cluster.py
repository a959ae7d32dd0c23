"""A Ray cluster of two nodes that runs already: the Slurm script starts it, and a run with a rank on each joins it."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sysconfig
from pathlib import Path

import pytest

from agentfly.process_tree import MARKER, ProcessFamily
from tests.e2e.test_recipes import small

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
# Slurm's commands on one machine: options are left out, and a node of Ray has one accelerator.
SLURM = {
    "scontrol": "printf 'first\\nsecond\\n'",
    "srun": """while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done
if [[ $1 == hostname ]]; then echo 127.0.0.1; exit; fi
exec "$@" --num-cpus=16 --num-gpus=1 --object-store-memory=200000000""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of two nodes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in SLURM.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return environment | {
        "PATH": os.pathsep.join((str(programs), sysconfig.get_path("scripts"), os.environ["PATH"])),
        MARKER: secrets.token_hex(8),
        "HOME": str(tmp_path),  # where Ray's token is
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


def test_two_nodes_take_a_step(tiny_policy: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    out, said = tmp_path / "run", tmp_path / "said.txt"
    accelerators = ("n_gpus_per_node=1", "nnodes=2")
    command = [
        *("bash", "recipes/multi_node_ray.slurm", *small("multi_node_ray", tiny_policy, out)),
        *(f"trainer.{each}" for each in accelerators),
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
    ]
    with said.open("wb") as output:
        try:
            code = subprocess.run(command, cwd=ROOT, env=slurm, stdout=output, stderr=output, timeout=1200).returncode
        finally:
            # When a job ends, Slurm ends what its nodes still run.
            ProcessFamily(slurm[MARKER]).end()
    assert code == 0, said.read_text(encoding="utf-8")
    figures = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert figures["data"]["training/rollout_probs_diff_max"] < 1e-3
    log = next((out / "logs").glob("*.log")).read_text(encoding="utf-8")
    # Each node has one accelerator, so the two ranks and the two rollout engines are on different ones.
    for worker in ("WorkerDict", "vLLMHttpServer"):
        assert len(set(re.findall(rf"{worker} pid=(\d+)", log))) == 2
