"""The checks of a configuration that need verl and the policy itself: verl's own, the chat template, prompt lengths."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from agentfly.datasets import EditTask, load_tasks
from agentfly.errors import AgentFlyError, ConfigError, unknown_name
from agentfly.training.compose import settings_of
from agentfly.training.prepare import is_row_file
from agentfly.training.rows import read_task
from agentfly.training.settings import TrainSettings

TASKS = 16  # whose prompts are measured


def main(file: Path) -> None:
    """Check the configuration in a file, and write `{"fault", "told"}` to standard output."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    config = OmegaConf.load(file)
    fault, told = None, []
    for check in CHECKS:
        try:
            told.append(check(config))
        except (AgentFlyError, AssertionError, HydraException, ValueError, TypeError) as wrong:
            fault = f"{wrong}" if isinstance(wrong, AgentFlyError) else f"verl: {' '.join(str(wrong).split())}"
            break
    sys.stdout.write(json.dumps({"fault": fault, "told": "; ".join(told)}) + "\n")


def accept(config: Any) -> str:
    """verl's own checks: of sizes, and those of the dataclasses that it makes of the nodes."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    critic = need_critic(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=critic)
    for node in (config.actor_rollout_ref.rollout, config.algorithm, *([config.critic.optim] if critic else [])):
        omega_conf_to_dataclass(node)
    return "verl accepts the configuration"


def _names(config: Any) -> str:
    """Names that verl looks up at the first update only: of the advantage estimator, and of the policy's loss."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.utils.import_utils import import_external_libs

    from agentfly.training import turn_advantage  # noqa: F401  (registers its estimator)

    import_external_libs(config.actor_rollout_ref.model.external_lib)  # where people register their own
    estimator, loss = config.algorithm.adv_estimator, config.actor_rollout_ref.actor.policy_loss.loss_mode
    if estimator not in ADV_ESTIMATOR_REGISTRY:
        raise ConfigError(unknown_name("algorithm.adv_estimator", estimator, ADV_ESTIMATOR_REGISTRY))
    if loss not in POLICY_LOSS_REGISTRY:
        raise ConfigError(unknown_name("actor_rollout_ref.actor.policy_loss.loss_mode", loss, POLICY_LOSS_REGISTRY))
    return f"{estimator} with the {loss} loss"


def _prompts(config: Any) -> str:
    """The first prompts, tools and pictures included, fit in `data.max_prompt_length`."""
    settings = settings_of(config)
    if not Path(settings.model).is_dir():
        return f"{settings.model} is not on this machine: its prompts were not measured"
    from transformers import AutoProcessor

    from agentfly.training.agent_loop import Shared, VerlBackend, new_chain

    common = Shared.of(config, AutoProcessor.from_pretrained(settings.model))
    backend = VerlBackend(None, common.codec, {})
    limit, longest = int(config.data.max_prompt_length), 0
    for task in _tasks(settings):
        chain = new_chain(common, backend, task, task.id, 0)
        messages, store = chain.trajectory.messages, chain.view.store
        length = len(common.codec.prompt_ids(messages, chain.tools.schemas(), store.get))
        if length > limit:
            raise ConfigError(
                f"the prompt of task {task.id!r} has {length} tokens, data.max_prompt_length is {limit}: raise it, "
                "shorten the system prompt, or make the pictures smaller"
            )
        longest = max(longest, length)
    return f"prompts have {longest} of {limit} tokens at most"


def _tasks(settings: TrainSettings) -> list[EditTask]:
    data = settings.data
    if is_row_file(data.train):
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(data.train, columns=["extra_info"]).slice(0, TASKS).to_pylist()
        return [read_task(row["extra_info"]) for row in rows]
    return list(islice(load_tasks(data.train, split=data.split, limit=data.limit, seed=settings.seed), TASKS))


CHECKS: tuple[Callable[[Any], str], ...] = (accept, _names, _prompts)
