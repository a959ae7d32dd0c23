"""The child process of a run, started by `launcher`: `python -m agentfly.training.verl.driver <hydra arguments>`.

It runs verl's trainer with our checks. It ends when its parent does, so a killed launcher leaves no training behind.
`… driver check FILE` checks a configuration and ends; `… driver ready FILE` does so without verl and the policy.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentfly.errors import TrainingError, first_line
from agentfly.process_tree import end_with_parent
from agentfly.training.launch.environment import FORWARDED_VARIABLE, JOB_VARIABLE
from agentfly.training.recipe.checks import RAY_ADDRESS

_ASK_SECONDS = 0.2
_ANSWER_SECONDS = 5.0  # for the daemon of a Ray node
_QUEUE_SECONDS = 60.0  # for the end of a run's queue after the run itself
_OF_A_NEW_CLUSTER = frozenset(
    ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "include_dashboard")
)


def take_own_job_id() -> None:
    """Give this process a Ray job number that no other run on the machine has.

    verl names the socket of its weight synchronisation after it (workers/rollout/vllm_rollout/vllm_rollout.py:140), and
    every Ray cluster counts its jobs from 1: two runs, each with a Ray of its own, would wait for each other's weights.
    Ray asks this function for the number when it connects (ray/_private/worker.py:2582).
    """
    import ray

    number = ray.JobID.from_hex(os.environ[JOB_VARIABLE])
    ray._private.state.next_job_id = lambda: number


def wait_for_ray() -> None:
    """Let Ray's node take as long to register as `agentfly.patience.ray` allows the start; the launcher watches it.

    Ray gives up after 30 seconds (ray/_private/node.py:428), which a busy machine needs for the imports of its agents.
    """
    from ray._private import services

    ask = services.get_node

    def ask_again(gcs_address: str, node_id: str) -> object:
        while True:
            try:
                return ask(gcs_address, node_id)
            except RuntimeError:
                time.sleep(_ASK_SECONDS)

    services.get_node = ask_again


def join_cluster() -> list[tuple[str, int]]:
    """Have verl join the Ray cluster that runs already, with the variables of this run for all its workers.

    Return a list that is empty until then, and gets the addresses (host, port) of the daemons of the cluster's nodes.
    `ray.init` then raises `TrainingError` where another run trains in the cluster.

    verl gives Ray the resources of a cluster to start, which Ray refuses where it joins one
    (ray/_private/worker.py:1936). And it hands on no variable that this process has, as if the workers of other
    machines had it from here (verl/trainer/constants_ppo.py:get_ppo_ray_runtime_env).
    """
    import ray
    from verl.trainer.constants_ppo import PPO_RAY_RUNTIME_ENV

    init = ray.init
    names = {*os.environ.get(FORWARDED_VARIABLE, "").split(), *PPO_RAY_RUNTIME_ENV["env_vars"]}
    here = {name: os.environ[name] for name in sorted(names) if name in os.environ}
    nodes: list[tuple[str, int]] = []

    def join(*, runtime_env: dict[str, Any], **given: object) -> object:
        kept = {name: value for name, value in given.items() if name not in _OF_A_NEW_CLUSTER}
        context = init(**kept, runtime_env={**runtime_env, "env_vars": {**runtime_env.get("env_vars", {}), **here}})
        _wait_for_queue()
        nodes.extend((node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes() if node["Alive"])
        return context

    ray.init = join
    return nodes


def _wait_for_queue() -> None:
    """Wait until no other run has its queue in the cluster; a run that was killed leaves it for a moment.

    The queue has one name in a cluster, and who finds it there uses it (transfer_queue/interface.py:119).
    """
    import ray

    deadline = time.monotonic() + _QUEUE_SECONDS
    while True:
        try:
            ray.get_actor("TransferQueueController", namespace="transfer_queue")
        except ValueError:
            return
        if time.monotonic() > deadline:
            raise TrainingError(
                f"another run trains in the Ray cluster of {RAY_ADDRESS}={os.environ[RAY_ADDRESS]}, and verl has one "
                "queue in a cluster: wait for its end, or start a cluster for this run"
            )
        time.sleep(_ASK_SECONDS)


@contextmanager
def lost_nodes_named(nodes: Sequence[tuple[str, int]]) -> Iterator[None]:
    """Name the nodes of the cluster that are gone in the error of a run that failed.

    The error itself may be of a connection that was closed. Ray notices a quarter of a minute later that a node is
    gone, so the daemons are asked.

    Args:
        nodes: see `join_cluster`.

    Raises:
        TrainingError: the run failed, and a node has been lost since it began.
    """
    try:
        yield
    except Exception as fault:
        if gone := [host for host, port in nodes if not _answers(host, port)]:
            # Ray's error of a remote function is the text of its traceback.
            cause = getattr(fault, "cause", fault)
            raise TrainingError(
                f"{' and '.join(f'node {host}' for host in gone)} of the Ray cluster is gone: "
                f"{type(cause).__name__}: {first_line(cause)}"
            ) from fault
        raise


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def main() -> None:
    """Run verl's trainer on the command line of this process."""
    end_with_parent()
    if sys.argv[1:2] == ["ready"]:
        from agentfly.training.verl import preflight

        preflight.main(Path(sys.argv[2]), preflight.READY)
        return
    if os.environ.get("VERL_PLATFORM") == "cpu":
        from agentfly.training.cpu import check_platform

        check_platform()
    if sys.argv[1:2] == ["check"]:
        from agentfly.training.verl import preflight

        preflight.main(Path(sys.argv[2]))
        return
    nodes: Sequence[tuple[str, int]] = ()
    if RAY_ADDRESS in os.environ:
        nodes = join_cluster()
    else:
        take_own_job_id()
        wait_for_ray()
    from verl.trainer.main_ppo import main as train

    with lost_nodes_named(nodes):
        train()


if __name__ == "__main__":
    main()
