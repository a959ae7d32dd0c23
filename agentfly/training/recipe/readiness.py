"""Checks of this machine and of others before a run: GPUs, disk, positions of the model, servers and evaluators.

Each function checks one thing, returns a sentence about it, and raises where the run could not go well. All of them are
quick, so that not only a dry run makes them, but every run that starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentfly.aio import TimeLimitExceeded, with_waiting_limit
from agentfly.errors import ConfigError, EvaluatorError, TrainingError
from agentfly.evaluation.calibration.record import read_record, record_folder
from agentfly.evaluators import GuardedEvaluator, check_ready, close_evaluator, make_evaluator
from agentfly.evaluators.base import READY_SECONDS
from agentfly.evaluators.factory import JUDGES, names_in
from agentfly.evaluators.http import HttpEvaluator
from agentfly.model_source import hub_is_off
from agentfly.redaction import public_url
from agentfly.training.recipe.checks import RAY_ADDRESS, check_model, rollout_accelerators
from agentfly.training.recipe.memory import GIB
from agentfly.training.recipe.policy_sizes import count_parameters, text_config
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import VerlConfig
from agentfly.vision.remote.preflight import require_nodes

HIDDEN = "CUDA_VISIBLE_DEVICES"
# Bytes of a parameter in each part that verl may write (actor.checkpoint.save_contents): fp32, two fp32 moments, bf16.
STORED = {"model": 4, "optimizer": 8, "hf_model": 2}
_LOOK_SECONDS = 30.0


class Caution(str):
    """A sentence of a check about something that does not keep a run from starting, and may spoil it."""

    __slots__ = ()


def check_policy(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the policy's folder is a checkpoint, or that the hub's name is within reach while the hub is off.

    Raises:
        ConfigError: it is not.
    """
    # A plan needs only the name of a policy on the hub, unless the hub is off.
    check_model(settings, reach=hub_is_off())
    return f"policy {settings.model}"


def check_gpus(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that this machine has the GPUs that a run asks for; a Ray cluster that runs already is not checked.

    Raises:
        ConfigError: this machine has fewer.
    """
    if RAY_ADDRESS in os.environ:
        cluster = f"the Ray cluster at {RAY_ADDRESS}={os.environ[RAY_ADDRESS]}"
        if settings.device == "cpu":
            return (
                f"each node of {cluster} needs `ray start --num-gpus={config.trainer.n_gpus_per_node}`: Ray counts them"
            )
        return f"GPUs are those of {cluster}"
    if settings.device == "cpu":
        return "no GPU is needed"
    count, node, nodes = count_gpus(), config.trainer.n_gpus_per_node, config.trainer.nnodes
    own = rollout_accelerators(config)
    wanted = node * nodes + own
    if count >= wanted:
        return f"{count} GPUs, of which {wanted} are used"
    found = f"this machine has {count or 'no'} GPU{'s' * (count > 1)}"
    if os.environ.get(HIDDEN) is not None:
        found += f" that {HIDDEN}={os.environ[HIDDEN]!r} shows"
    if not count:
        raise ConfigError(
            f"{found}: train a small policy on the CPU with device=cpu, as recipes/laptop.yaml does, or name a Ray "
            f"cluster in {RAY_ADDRESS} (`agentfly doctor` says why GPUs that are there are not seen)"
        )
    asked = f"trainer.n_gpus_per_node={node}" + (f" x trainer.nnodes={nodes}" if nodes > 1 else "")
    if own:
        asked += " with actor_rollout_ref.rollout.n_gpus_per_node x nnodes"
    raise ConfigError(f"{found}, and {asked} wants {wanted}: lower that, or name a Ray cluster in {RAY_ADDRESS}")


def count_gpus() -> int:
    """Count the GPUs that a trainer in this environment would see."""
    import torch

    return torch.cuda.device_count()


def check_positions(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the model has a position for every token of a chain: the rollout engine refuses to start otherwise.

    Raises:
        ConfigError: it has not.
    """
    if not (Path(settings.model) / "config.json").is_file():
        return f"the positions of {settings.model} were not looked at: it is not on this machine"
    positions = positions_of(text_config(Path(settings.model)))
    length = int(config.actor_rollout_ref.rollout.max_model_len)
    if positions is not None and length > positions:
        raise ConfigError(
            f"a chain may have {length} tokens, and the model has positions for {positions} (max_position_embeddings): "
            "lower data.max_prompt_length, data.max_response_length and, where it is set, "
            "actor_rollout_ref.rollout.max_model_len"
        )
    return f"a chain may have {length} of the model's {positions or 'unknown number of'} positions"


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Return the number of positions that vLLM takes a checkpoint to have, None where its configuration is silent."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor") or 1.0
    positions = config.get("max_position_embeddings")
    if kind == "yarn":
        positions = rope.get("original_max_position_embeddings", positions)
    if positions is None or kind in ("su", "longrope", "llama3"):
        return positions
    return int(positions * factor)


def check_disk(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the disk of `agentfly.out` has room for the checkpoints that are kept.

    Raises:
        ConfigError: it has not.
    """
    needed = checkpoints_bytes(config, Path(settings.model))
    if needed is None:
        return f"room for checkpoints was not measured: {settings.model} is not on this machine"
    existing = next(folder for folder in (settings.out.absolute(), *settings.out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ConfigError(
            f"checkpoints take about {needed / GIB:.1f} GiB, and the disk of agentfly.out={settings.out} has "
            f"{free / GIB:.1f} GiB free: give another agentfly.out, or keep fewer (trainer.max_actor_ckpt_to_keep=1, "
            "trainer.max_critic_ckpt_to_keep=1)"
        )
    found = f"checkpoints take about {needed / GIB:.1f} of {free / GIB:.1f} GiB that are free"
    if settings.images is None:
        return found
    most = settings.images.max_bytes
    images = "as much as they need" if most is None else f"up to {min(most, free - needed) / GIB:.1f} GiB"
    return f"{found}, the images of chains {images} of the rest"


def checkpoints_bytes(config: VerlConfig, model: Path) -> int | None:
    """Estimate the bytes of the checkpoints that a run keeps; None where the weights are not on this machine.

    Args:
        config: complete.
        model: folder of the policy.
    """
    parameters, trainer = count_parameters(model), config.trainer
    if trainer.save_freq < 1:
        return 0
    if parameters is None:
        return None
    written = math.ceil(trainer.total_training_steps / trainer.save_freq)
    share = sum(STORED.get(part, 0) for part in config.actor_rollout_ref.actor.checkpoint.save_contents)
    needed = share * parameters * min(written, trainer.max_actor_ckpt_to_keep or written)
    if config.algorithm.adv_estimator == "gae":
        critic = STORED["model"] + STORED["optimizer"]
        needed += critic * parameters * min(written, trainer.max_critic_ckpt_to_keep or written)
    return int(needed)


def checkpoints_to_come(config: VerlConfig, settings: TrainSettings) -> Callable[[], int]:
    """Return a function that estimates the bytes of the checkpoints that are not written yet.

    It looks at the folder twice a minute at most.

    Args:
        config: complete.
        settings: its section `agentfly`.
    """
    needed = checkpoints_bytes(config, Path(settings.model)) or 0
    folder, looked, found = settings.checkpoint_dir, -math.inf, needed

    def to_come() -> int:
        nonlocal looked, found
        if needed and time.monotonic() - looked > _LOOK_SECONDS:
            looked, written = time.monotonic(), 0
            for path in folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # verl removes old checkpoints meanwhile
                    written += path.stat().st_size if path.is_file() else 0
            found = max(0, needed - written)
        return found

    return to_come


def check_servers(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that an image server can be used; see `require_servers`.

    Raises:
        ConfigError: none of those that the run names can.
    """
    if not settings.client_nodes:
        return "no image servers"
    silent = require_servers(settings)
    why = ", ".join(f"{name} ({reason})" for name, reason in silent.items())
    return f"image servers that cannot be used from here: {why}" if silent else "all image servers answer"


def check_evaluator(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the reward function can be imported, and that the evaluator of the reward can score.

    Raises:
        ConfigError: it is set up wrongly, or a key is missing.
        TrainingError: a service that it asks does not answer.
    """
    if not settings.asks_evaluator:
        return f"{settings.reward_function} gives the reward, and asks for no evaluator"
    return _check_can_score("agentfly.evaluator", settings.evaluator)


def check_sleep(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the evaluator servers that are to sleep during updates have a model that can.

    Raises:
        ConfigError: one has none.
    """
    specs = settings.sleeping_evaluators
    if not specs:
        return "no evaluator sleeps during updates"

    async def ask(spec: Mapping[str, object]) -> bool | None:
        server = make_evaluator(spec)
        server = server.evaluator if isinstance(server, GuardedEvaluator) else server
        assert isinstance(server, HttpEvaluator)
        try:
            return await with_waiting_limit(server.server_can_sleep(), READY_SECONDS / 2)
        except TimeLimitExceeded:
            return None
        finally:
            await server.close()

    known: dict[str, bool | None] = {public_url(str(spec["base_url"])): asyncio.run(ask(spec)) for spec in specs}
    if without := [address for address, sleeps in known.items() if sleeps is False]:
        raise ConfigError(
            f"agentfly.evaluator_sleep: the evaluator at {' and '.join(without)} has no model that could sleep: leave "
            "evaluator_sleep out, or serve a learned reward there"
        )
    if silent := [address for address, sleeps in known.items() if sleeps is None]:
        return Caution(
            f"the evaluator at {' and '.join(silent)} does not say if it can sleep (agentfly.evaluator_sleep): one "
            "that cannot keeps its memory during updates"
        )
    return f"asleep except during rollouts: the evaluator at {' and '.join(known)}"


def check_audit(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the second evaluator can score, where there is one; raises as `check_evaluator` does."""
    if settings.audit is None:
        judged = JUDGES & set(names_in(settings.evaluator))
        if judged:
            return Caution(f"no audit watches the judge that gives the reward ({', '.join(sorted(judged))})")
        return "no audit"
    return _check_can_score("agentfly.audit.evaluator", settings.audit.evaluator)


def check_calibration(config: VerlConfig, settings: TrainSettings) -> str:
    """Look up how far the reward can be trusted: a `Caution` for one that `agentfly calibrate` did not trust or see.

    Raises:
        ConfigError: the record of the calibration cannot be read.
    """
    if not settings.asks_evaluator:
        return Caution(
            f"nobody knows how far the reward {settings.reward_function} can be trusted: agentfly calibrate measures "
            "evaluators, and this function asks for none; let an audit watch it (agentfly.audit)"
        )
    spec = settings.evaluator
    name = spec if isinstance(spec, str) else str(spec.get("evaluator"))
    record = read_record(spec, record_folder(settings.calibration))
    if record is None:
        return Caution(
            f"the reward {name} was never calibrated with these settings: `agentfly calibrate` with what "
            "agentfly.evaluator names shows what it rates wrongly, and which attacks it lets through"
        )
    if record.cautions:
        return Caution(f"the calibration of the reward {name} ({record.made[:10]}) found: {'; '.join(record.cautions)}")
    share = record.accuracy and f"{100 * record.accuracy['mean']:.0f} % of the pairs in order"
    return f"the reward {name} was calibrated ({record.made[:10]}): {share or 'no pairs'}, no attack let through"


def _check_can_score(key: str, spec: str | Mapping[str, object]) -> str:
    evaluator = make_evaluator(spec)

    async def ask() -> None:
        try:
            await check_ready(evaluator)
        finally:
            await close_evaluator(evaluator)

    try:
        asyncio.run(ask())
    except ConfigError as fault:
        raise ConfigError(f"{key}: {fault}") from fault
    except EvaluatorError as fault:
        raise TrainingError(f"{key}: {fault}") from fault
    return f"{key} can score"


def require_servers(settings: TrainSettings) -> Mapping[str, str]:
    """Warn of image servers that cannot be used, and return them by address, each with the reason.

    The remaining servers do the work. Where Ray runs already, no server is required: the processes that call the
    servers may reach more of them than this machine does.

    Raises:
        ConfigError: no server is left.
    """
    without = "let the engines do everything with agentfly.client_nodes=[]"
    return asyncio.run(require_nodes(settings.nodes(), without, warn_only=RAY_ADDRESS in os.environ))
