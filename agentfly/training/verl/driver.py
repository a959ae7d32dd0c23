"""The child process of a run, started by `launcher`: `python -m agentfly.training.verl.driver <hydra arguments>`.

It runs verl's trainer with our checks. It ends when its parent does, so a killed launcher leaves no training behind.
`… driver check FILE` checks a configuration and ends; `… driver ready FILE` does so without verl and the policy.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from agentfly.process_tree import end_with_parent
from agentfly.training.launch.environment import JOB_VARIABLE

_ASK_SECONDS = 0.2


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
    if "RAY_ADDRESS" not in os.environ:
        take_own_job_id()
        wait_for_ray()
    from verl.trainer.main_ppo import main as train

    train()


if __name__ == "__main__":
    main()
