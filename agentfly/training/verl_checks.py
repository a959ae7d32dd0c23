"""The checks of a configuration that need verl, the policy or the tasks, and would otherwise fail late in a run."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from agentfly.agents import ImageEditingAgent, edit_sample
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.datasets import EditTask
from agentfly.errors import AgentFlyError, ConfigError, EvaluatorError, unknown_name
from agentfly.evaluators import (
    Evaluator,
    ReferenceEvaluator,
    StructuralEvaluator,
    health_settings,
    make_evaluator,
)
from agentfly.images import ImageStore, ImageView, load_image
from agentfly.templates import load_template
from agentfly.training.checks import check_model, check_tasks
from agentfly.training.compose import settings_of
from agentfly.training.prepare import count_rows, ready_file, training_tasks
from agentfly.training.servers import silent_servers
from agentfly.training.settings import TrainSettings
from agentfly.vision.factory import make_engines

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


def _agent(config: Any) -> str:
    """What the node `agentfly` names is there: evaluators, engines, tools, chat template, health metrics."""
    settings = settings_of(config)
    make_evaluator(settings.evaluator)
    if settings.audit is not None:
        make_evaluator(settings.audit.evaluator)
    health_settings(settings.health)
    if settings.template is not None:
        load_template(settings.template)
    agent = ImageEditingAgent("check", backend=ScriptedBackend([]), engines=make_engines(settings.engines))
    tools = agent.toolset(ImageView(ImageStore()))
    chosen = tools if settings.tools is None else tools.only(settings.tools)
    return f"tools {', '.join(tool.name for tool in chosen)}"


def _servers(config: Any) -> str:
    """Image servers answer. Those that do not may yet be started: the plan says so, and the run insists."""
    settings = settings_of(config)
    silent = silent_servers(settings)
    if not settings.client_nodes:
        return "no image servers"
    why = ", ".join(f"{name} ({reason})" for name, reason in silent.items())
    return f"image servers that cannot be used yet: {why}" if silent else "all image servers answer"


def _tasks(config: Any) -> str:
    """There are tasks for a step, and the evaluator can score some of them."""
    settings = settings_of(config)
    tasks, count = _first(settings, config.data.train_batch_size)
    check_tasks(config, count)
    evaluator = make_evaluator(settings.evaluator)
    if not isinstance(evaluator, ReferenceEvaluator | StructuralEvaluator):
        return "tasks can be read"  # whom else it asks, and for what price, is not a matter of a check
    faults = asyncio.run(_unscored(evaluator, tasks))
    if len(faults) == len(tasks):
        raise ConfigError(f"none of the first {len(tasks)} tasks can be scored: {faults[0]}")
    return f"{len(tasks) - len(faults)} of the first {len(tasks)} tasks can be scored"


async def _unscored(evaluator: Evaluator, tasks: list[EditTask]) -> list[str]:
    faults = []
    for task in tasks:
        try:
            await evaluator.evaluate(edit_sample(task, load_image(task.images[0])))
        except EvaluatorError as fault:
            faults.append(str(fault))
    return faults


def _prompts(config: Any) -> str:
    """The first prompts, tools and pictures included, fit in `data.max_prompt_length`."""
    settings = settings_of(config)
    check_model(settings)
    if not Path(settings.model).is_dir():
        return (
            f"{settings.model} is not on this machine, so its prompts were not measured: download it "
            f"(hf download {settings.model} --local-dir FOLDER), and give agentfly.model=FOLDER"
        )
    from transformers import AutoProcessor

    from agentfly.training.agent_loop import Shared, VerlBackend, new_chain

    common = Shared.of(config, AutoProcessor.from_pretrained(settings.model))
    backend = VerlBackend(None, common.codec, {})
    limit, longest = int(config.data.max_prompt_length), 0
    for task in _first(settings, 0)[0]:
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


def _first(settings: TrainSettings, size: int) -> tuple[list[EditTask], int]:
    """The first tasks, and how many there are; no more than `size` are counted where that means to read them."""
    tasks, ready = training_tasks(settings), ready_file(settings)
    first = list(islice(tasks, TASKS))
    if ready is not None:
        return first, count_rows(ready)
    return first, len(first) + sum(1 for _ in islice(tasks, max(0, size - len(first))))


CHECKS: tuple[Callable[[Any], str], ...] = (accept, _names, _agent, _servers, _tasks, _prompts)
