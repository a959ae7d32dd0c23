"""The files that start four nodes agree with the recipe that they run: nodes, GPUs, versions, paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
RECIPES = ROOT / "recipes"


def read(name: str) -> Any:
    return yaml.safe_load((RECIPES / f"multi_node_ray{name}").read_text(encoding="utf-8"))


def test_nodes_and_gpus_are_those_of_the_recipe() -> None:
    trainer = read(".yaml")["trainer"]
    nodes, gpus = trainer["nnodes"], trainer.get("n_gpus_per_node", 8)
    slurm = (RECIPES / "multi_node_ray.slurm").read_text(encoding="utf-8")
    assert re.findall(r"#SBATCH --(?:nodes|gpus-per-node)=(\d+)", slurm) == [str(nodes), str(gpus)]
    sky = read(".sky.yml")
    assert (sky["num_nodes"], sky["resources"]["accelerators"].rpartition(":")[2]) == (nodes, str(gpus))
    job = read(".kuberay.yml")["spec"]
    cluster = job["rayClusterSpec"]
    groups = [{"replicas": 1, **cluster["headGroupSpec"]}, *cluster["workerGroupSpecs"]]
    assert sum(group["replicas"] for group in groups) == nodes
    assert f"NODES={nodes} " in job["entrypoint"]
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus


def test_ray_is_the_one_that_is_installed() -> None:
    lock = (ROOT / "requirements-gpu.txt").read_text(encoding="utf-8")
    assert f"\nray=={read('.kuberay.yml')['spec']['rayClusterSpec']['rayVersion']}" in lock


@pytest.mark.parametrize("name", [".slurm", ".sky.yml", ".kuberay.yml"])
def test_each_runs_the_recipe_and_asks_for_a_token(name: str) -> None:
    text = (RECIPES / f"multi_node_ray{name}").read_text(encoding="utf-8")
    assert "recipes/multi_node_ray.sh" in text
    assert re.search(r"RAY_AUTH_MODE[=:] ?token|mode: token", text)
