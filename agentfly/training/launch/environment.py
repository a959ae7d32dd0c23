"""Environment variables of a run: they mark its processes, keep them quiet, and let them start on this machine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from agentfly.agents.llm_backends.vllm_defaults import CPU_ENVIRONMENT, CPU_IN_PROCESS_ENVIRONMENT
from agentfly.model_source import hub_answers, is_local
from agentfly.process_tree import MARKER
from agentfly.training.launch.stack_dump import FOLDER_VARIABLE
from agentfly.training.recipe.checks import RAY_ADDRESS
from agentfly.training.recipe.settings import TrainSettings

JOB_VARIABLE = "RAY_JOB_ID"  # number of Ray's job (src/ray/common/ray_internal_flag_def.h)
FORWARDED_VARIABLE = "AGENTFLY_FORWARDED"  # names of the variables that a run brings to such a cluster
STACKS = "stacks"  # folder of a run's scratch folder
# Folders for temporary files are those of each machine.
_OF_THIS_MACHINE = frozenset(("RAY_TMPDIR", "TMPDIR"))
_ALWAYS = {
    "HYDRA_FULL_ERROR": "1",
    "PYTHONUNBUFFERED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "VERL_LOGGING_LEVEL": "INFO",
    "VLLM_LOGGING_LEVEL": "INFO",
}
_ON_CPU = {
    "HF_HUB_OFFLINE": "1",
    # Ray would start a process for each logical CPU at once, and all would import on the few real ones.
    "RAY_prestart_worker_first_driver": "0",
    # Ray gives its workers niceness 15: beside any other program they would get a thirtieth of a core.
    "RAY_worker_niceness": "0",
    # The launcher has its own limits that catch hangs, and Ray's minute is little for a process of a busy machine.
    "RAY_worker_register_timeout_seconds": "600",
    **CPU_ENVIRONMENT,
    **CPU_IN_PROCESS_ENVIRONMENT,
    "VERL_PLATFORM": "cpu",
}
# Brought along also where they stand as the run would set them: a cluster has been started without them.
_USERS = frozenset(("PYTHONPATH", *_ALWAYS, *_ON_CPU))


def run_environment(
    settings: TrainSettings, run_id: str, scratch: Path, metrics_file: Path, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of every process of a run.

    Args:
        settings: of the run.
        run_id: marks the processes of the run.
        scratch: folder for temporary files, Ray's sockets among them: its path must be short (unix(7): 108 bytes).
        metrics_file: where verl's file logger writes.
        base: environment to start from; this process's own when None.
    """
    before = dict(os.environ if base is None else base)
    environment = dict(before)
    environment |= _ALWAYS | {
        FOLDER_VARIABLE: str(scratch / STACKS),
        MARKER: run_id,
        "OMP_NUM_THREADS": str(settings.threads),
        "RAY_TMPDIR": str(scratch),
        "TMPDIR": str(scratch),
        "VERL_FILE_LOGGER_PATH": str(metrics_file),
    }
    if RAY_ADDRESS not in environment:
        # In an environment, because Ray reads it once in a process: a preloaded parent has it before its forks need it.
        environment[JOB_VARIABLE] = (secrets.randbelow(2**31 - 2) + 2).to_bytes(4, "little").hex()
    # Where verl's loggers write, unless somebody has said where: into the run's folder, not the working folder.
    environment.setdefault("TENSORBOARD_DIR", str(settings.out.absolute() / "tensorboard"))
    environment.setdefault("WANDB_DIR", str(settings.out.absolute()))
    if settings.device == "cpu":
        environment |= _ON_CPU
        if settings.threads == 1:
            # As the rollout server has it (`CPUPlatform.rollout_env_vars`). One thread waits for no other, and with
            # the same variables all processes can be forks of one that is preloaded.
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        if not environment.get("VLLM_CPU_KVCACHE_SPACE"):
            environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
        # vLLM would give each part of a divided engine a NUMA node of its own (vllm/utils/ompmultiprocessing.py:200),
        # which few machines have.
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    elif not is_local(settings.model) and not hub_answers():
        # Models in the cache are taken from there; otherwise every process would ask the hub for minutes.
        environment["HF_HUB_OFFLINE"] = "1"
    environment |= settings.environment
    if RAY_ADDRESS in environment:
        ours = {name for name, value in environment.items() if before.get(name) != value} - _OF_THIS_MACHINE
        environment[FORWARDED_VARIABLE] = " ".join(sorted(ours | environment.keys() & _USERS))
    return environment
