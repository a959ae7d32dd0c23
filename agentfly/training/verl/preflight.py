"""The checks of a configuration: all problems that would otherwise show late in a run, reported together."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from agentfly.agents import ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.datasets import EditTask
from agentfly.errors import AgentFlyError, ConfigError, DatasetError, first_line, unknown_name
from agentfly.evaluation.scoring import FIRST_TASKS, count_scorable
from agentfly.evaluators import make_evaluator
from agentfly.images import ImageStore, ImageView
from agentfly.templates import load_template
from agentfly.tools import Toolset
from agentfly.training.launch.prepare import count_rows, ready_file, training_tasks
from agentfly.training.metrics import health_settings
from agentfly.training.recipe import readiness
from agentfly.training.recipe.checks import check_tasks, size_faults
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.settings import TrainSettings
from agentfly.vision.factory import make_engines

Check = Callable[[Any, TrainSettings], str]
SHOWS_TOOLS = ("qwen2.5-vl-system-tool", "qwen3-vl", "compact-tool")


def main(file: Path, checks: Sequence[Check] | None = None) -> None:
    """Check the configuration in a file, and write `{"faults": [...], "told": [...]}` to standard output.

    Args:
        file: a composed configuration.
        checks: all when None. One that objects does not keep the others from being made.
    """
    from omegaconf import OmegaConf

    config = OmegaConf.load(file)
    settings, faults, told = settings_of(config), size_faults(config), list[str]()
    for check in CHECKS if checks is None else checks:
        if faults and check is accept:
            continue  # verl would say the same in other words
        try:
            told.append(check(config, settings))
        except AgentFlyError as fault:
            faults.append(str(fault))
        except Exception as fault:  # the boundary of a check: verl asserts, and evaluators may be anybody's
            who = "verl" if check in (accept, _names) else type(fault).__name__
            faults.append(f"{who}: {' '.join(str(fault).split()) or first_line(fault)}")
    # What several checks need is missing in each of them.
    sys.stdout.write(json.dumps({"faults": list(dict.fromkeys(faults)), "told": told}) + "\n")


def accept(config: Any, settings: TrainSettings | None = None) -> str:
    """verl's own checks: of sizes, and those of the dataclasses that it makes of the nodes."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    critic = need_critic(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=critic)
    for node in (config.actor_rollout_ref.rollout, config.algorithm, *([config.critic.optim] if critic else [])):
        omega_conf_to_dataclass(node)
    return "verl accepts the configuration"


def _names(config: Any, settings: TrainSettings) -> str:
    """Names that verl looks up at the first update only: of the advantage estimator, and of the policy's loss."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.utils.import_utils import import_external_libs

    from agentfly.training.verl import turn_grpo  # noqa: F401  (registers its estimator)

    import_external_libs(config.actor_rollout_ref.model.external_lib)  # where people register their own
    estimator, loss = config.algorithm.adv_estimator, config.actor_rollout_ref.actor.policy_loss.loss_mode
    if estimator not in ADV_ESTIMATOR_REGISTRY:
        raise ConfigError(unknown_name("algorithm.adv_estimator", estimator, ADV_ESTIMATOR_REGISTRY))
    if loss not in POLICY_LOSS_REGISTRY:
        raise ConfigError(unknown_name("actor_rollout_ref.actor.policy_loss.loss_mode", loss, POLICY_LOSS_REGISTRY))
    return f"{estimator} with the {loss} loss"


def _health(config: Any, settings: TrainSettings) -> str:
    """The metrics of health that the run names are known."""
    return f"{len(health_settings(settings.health).limits)} limits of health"


def _template(config: Any, settings: TrainSettings) -> str:
    """The chat template is there."""
    if settings.template is None:
        return "the policy's own chat template"
    load_template(settings.template)
    return f"chat template {settings.template}"


def _tools(config: Any, settings: TrainSettings) -> str:
    """Engines and tools are there."""
    agent = ImageEditingAgent("check", backend=ScriptedBackend([]), engines=make_engines(settings.engines))
    tools = agent.toolset(ImageView(ImageStore()))
    chosen = tools if settings.tools is None else tools.only(settings.tools)
    return f"tools {', '.join(tool.name for tool in chosen)}"


def _tasks(config: Any, settings: TrainSettings) -> str:
    """There are tasks for a step, and the evaluator can score some of them."""
    tasks, count = _first(settings, config.data.train_batch_size)
    check_tasks(config, count)
    scorable = asyncio.run(count_scorable(make_evaluator(settings.evaluator), tasks))
    return f"{scorable} of the first {len(tasks)} tasks have what their score needs"


def _prompts(config: Any, settings: TrainSettings) -> str:
    """The chat template shows the tools, and the first prompts fit in `data.max_prompt_length`."""
    if not Path(settings.model).is_dir():
        return (
            f"{settings.model} is not on this machine, so its prompts were not measured: download it "
            f"(hf download {settings.model} --local-dir FOLDER), and give agentfly.model=FOLDER"
        )
    from transformers import AutoProcessor

    from agentfly.training.verl.agent_loop import Shared, VerlBackend, new_chain

    common = Shared.of(config, AutoProcessor.from_pretrained(settings.model))
    backend = VerlBackend(None, common.codec, {})
    limit, longest = int(config.data.max_prompt_length), 0
    for task in _first(settings, 0)[0]:
        chain = new_chain(common, backend, task, task.id, 0)
        messages, store = chain.trajectory.messages, chain.view.store
        ids = common.codec.prompt_ids(messages, chain.tools.schemas(), store.get)
        if not longest and ids == common.codec.prompt_ids(messages, (), store.get):
            _require_names(settings, " ".join(message.text for message in messages), chain.tools)
        length = len(ids)
        if length > limit:
            raise ConfigError(
                f"the prompt of task {task.id!r} has {length} tokens, data.max_prompt_length is {limit}: raise it, "
                "shorten the system prompt, or make the images smaller"
            )
        longest = max(longest, length)
    return f"prompts have {longest} of {limit} tokens at most"


def _require_names(settings: TrainSettings, words: str, tools: Toolset) -> None:
    """Accept a template that ignores tools only where the words of the prompt name all of them.

    Raises:
        ConfigError: they do not.
    """
    if not all(tool.name in words for tool in tools):
        raise ConfigError(
            f"the chat template ({settings.template or 'of the policy'}) does not show the tools to the policy, which "
            f"could call none: give agentfly.template={' or '.join(SHOWS_TOOLS)}, or a .jinja file of your own"
        )


def _first(settings: TrainSettings, size: int) -> tuple[list[EditTask], int]:
    """The first tasks, and how many there are; no more than `size` are counted where that means to read them."""
    try:
        tasks, ready = training_tasks(settings), ready_file(settings)
        first = list(islice(tasks, FIRST_TASKS))
        if ready is not None:
            return first, count_rows(ready)
        return first, len(first) + sum(1 for _ in islice(tasks, max(0, size - len(first))))
    except DatasetError as fault:
        raise DatasetError(f"agentfly.data.train: {fault}") from fault


# Quick, and without verl: a run that starts makes them too.
READY: tuple[Check, ...] = (
    readiness.check_policy,
    readiness.check_gpus,
    _template,
    _tools,
    _health,
    readiness.check_servers,
    readiness.check_evaluator,
    readiness.check_audit,
    _tasks,
    readiness.check_positions,
    readiness.check_disk,
)
CHECKS: tuple[Check, ...] = (accept, _names, *READY, _prompts)
