"""The checks of a configuration: all problems that would otherwise show up late in a run, reported together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from agentfly.agents import Chain
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.reward_function import import_reward
from agentfly.agents.tool_trial import ToolTrial, try_tools
from agentfly.datasets import EditTask
from agentfly.errors import AgentFlyError, ConfigError, DatasetError, first_line, unknown_name
from agentfly.evaluation.scoring import FIRST_TASKS, count_scorable
from agentfly.evaluators import make_evaluator
from agentfly.images import ImageStore, ImageView
from agentfly.templates import ChatCodec, load_template
from agentfly.templates.families import find_family
from agentfly.training.launch.prepare import count_rows, ready_file, training_tasks
from agentfly.training.metrics.health import health_settings
from agentfly.training.recipe import readiness
from agentfly.training.recipe.checks import check_tasks, size_faults
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.policy_sizes import sizes_of
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import VerlConfig
from agentfly.training.verl.messages import CheckResult
from agentfly.vision.factory import make_engines

Check = Callable[[VerlConfig, TrainSettings], str]
_BYPASS_LOSSES = ("ppo_clip", "reinforce")


def main(file: Path, checks: Sequence[Check] | None = None) -> None:
    """Check the configuration in a file, and write a `CheckResult` to standard output.

    Args:
        file: a composed configuration.
        checks: all when None. A check that fails does not keep the others from being made.
    """
    from omegaconf import OmegaConf

    config = OmegaConf.load(file)
    settings, faults, passed = settings_of(config), size_faults(config), list[str]()
    cautions = list[str]()
    for check in CHECKS if checks is None else checks:
        if faults and check is accept:
            continue  # verl would say the same in other words
        try:
            said = check(config, settings)
            (cautions if isinstance(said, readiness.Caution) else passed).append(said)
        except AgentFlyError as fault:
            faults.append(str(fault))
        except Exception as fault:  # the boundary of a check: verl asserts, and evaluators may be anybody's
            source = "verl" if check in (accept, check_names) else type(fault).__name__
            faults.append(f"{source}: {' '.join(str(fault).split()) or first_line(fault)}")
    # A missing part shows up in each check that needs it.
    sys.stdout.write(CheckResult(list(dict.fromkeys(faults)), passed, cautions).to_line() + "\n")


def accept(config: VerlConfig, settings: TrainSettings | None = None) -> str:
    """Make verl's own checks: of sizes, and those of the dataclasses that it makes of the nodes."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    critic = need_critic(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=critic)
    for node in (config.actor_rollout_ref.rollout, config.algorithm, *([config.critic.optim] if critic else [])):
        omega_conf_to_dataclass(node)
    return "verl accepts the configuration"


def check_names(config: VerlConfig, settings: TrainSettings) -> str:
    """Check the names of the advantage estimator and of the policy's loss, which verl looks up at the first update.

    Raises:
        ConfigError: one of them is not registered.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.utils.import_utils import import_external_libs

    from agentfly.training.verl import turn_grpo  # noqa: F401  (registers its estimator)

    libraries = config.actor_rollout_ref.model.external_lib  # where people register their own
    import_external_libs(libraries if libraries is None or isinstance(libraries, str) else list(libraries))
    estimator, loss = config.algorithm.adv_estimator, config.actor_rollout_ref.actor.policy_loss.loss_mode
    if estimator not in ADV_ESTIMATOR_REGISTRY:
        raise ConfigError(unknown_name("algorithm.adv_estimator", estimator, ADV_ESTIMATOR_REGISTRY))
    if loss not in POLICY_LOSS_REGISTRY:
        raise ConfigError(unknown_name("actor_rollout_ref.actor.policy_loss.loss_mode", loss, POLICY_LOSS_REGISTRY))
    return f"{estimator} with the {loss} loss"


def check_correction(config: VerlConfig, settings: TrainSettings) -> str:
    """Check the settings of the rollout correction on one token; verl reads them at the first update.

    Raises:
        ConfigError: verl cannot correct with them.
    """
    import torch
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask

    given = config.algorithm.rollout_correction
    names = ("rollout_is", "rollout_is_threshold", "rollout_is_batch_normalize", "rollout_rs", "rollout_rs_threshold")
    one = torch.zeros(1, 1)
    try:
        compute_rollout_correction_and_rejection_mask(one, one, one + 1, **{name: given[name] for name in names})
    except (TypeError, ValueError) as fault:
        raise ConfigError(f"algorithm.rollout_correction: {fault}") from fault
    if given.bypass_mode and given.loss_type not in _BYPASS_LOSSES:
        raise ConfigError(unknown_name("algorithm.rollout_correction.loss_type", given.loss_type, _BYPASS_LOSSES))
    if not (given.rollout_is or given.rollout_rs or given.bypass_mode):
        return "no rollout correction"
    if not config.actor_rollout_ref.rollout.calculate_log_probs:
        raise ConfigError(
            "algorithm.rollout_correction needs the log-probs of the rollout: leave out "
            "actor_rollout_ref.rollout.calculate_log_probs=false"
        )
    parts = {"weights": given.rollout_is, "rejection": given.rollout_rs, "loss": given.bypass_mode and given.loss_type}
    return f"rollout correction: {', '.join(f'{name} {value}' for name, value in parts.items() if value)}"


def check_health(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the health metrics that the run names are known."""
    return f"{len(health_settings(settings.health).limits)} limits of health"


def check_family(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that verl can train the policy's family.

    Raises:
        ConfigError: it cannot; the message says why, with the place in verl.
    """
    policy = sizes_of(settings.model)
    family = find_family(policy.model_type)
    if policy.model_type is None or family is None:
        return f"the family of {settings.model} is {policy.family_in_words()}"
    support = family.support[policy.model_type]
    if support.goal != "trained":
        why = "; ".join(support.limits)
        raise ConfigError(
            f"{family.title} ({policy.model_type}) cannot be trained: {why}. docs/models.md lists those that can"
        )
    return f"verl trains {family.title} ({policy.model_type})"


def check_template(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the chat template can be loaded."""
    if settings.template is None:
        return "the policy's own chat template"
    load_template(settings.template)
    return f"chat template {settings.template}"


def check_tools(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the agent, its engines and its tools can be made, and call each tool of the person's own once.

    Raises:
        ConfigError: one of them cannot be made, or a tool fails.
    """
    engines = make_engines(settings.engines)
    agent = make_agent(settings.spec(), settings.model, backend=ScriptedBackend([]), engines=engines)

    async def check() -> tuple[str, list[ToolTrial]]:
        try:
            await agent.prepare()
            names = ", ".join(tool.name for tool in agent.tools_for(ImageView(ImageStore())))
            return names, await try_tools(agent, settings.limits.tool_timeout) if settings.check_tools else []
        finally:
            await agent.close()

    names, trials = asyncio.run(check())
    if faults := [trial.fault for trial in trials if trial.fault is not None]:
        raise ConfigError(f"{'; '.join(faults)} (agentfly.check_tools=false leaves out these calls)")
    tried = "".join(f"; {trial.tool} took {trial.seconds:.3f} s: {trial.outcome}" for trial in trials)
    return f"agent {settings.spec().label} with tools {names}{tried}"


def check_first_tasks(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that there are tasks for a step, and that some of them have what their score, reward and audit need."""
    tasks, count = _first(settings, config.data.train_batch_size)
    check_tasks(config, count)
    _check_audited(settings, tasks)
    if settings.reward_function is not None:
        function = import_reward(settings.reward_function)
        function.check_fields({name for task in tasks for name in task.metadata})
        if not function.asks_for("score", "aspects"):
            return f"the tasks have what {settings.reward_function} asks for"
    scorable = asyncio.run(count_scorable(make_evaluator(settings.evaluator), tasks))
    return f"{scorable} of the first {len(tasks)} tasks have what their score needs"


def _check_audited(settings: TrainSettings, tasks: Sequence[EditTask]) -> None:
    """Raise for an audit that cannot score any of the tasks: it would say nothing of the judge."""
    try:
        audit = None if settings.audit is None else make_evaluator(settings.audit.evaluator)
    except ConfigError:
        return  # told by `check_audit`
    try:
        if audit is not None:
            asyncio.run(count_scorable(audit, tasks))
    except ConfigError as fault:
        raise ConfigError(
            f"agentfly.audit: {fault}. Name an evaluator that can score these tasks, such as another judge "
            "(agentfly.audit={evaluator: {evaluator: judge, model: …}}), or train without (agentfly.audit=null)"
        ) from None


def check_prompts(config: VerlConfig, settings: TrainSettings) -> str:
    """Check that the chat template shows the tools, and that the first prompts fit in `data.max_prompt_length`.

    Raises:
        ConfigError: the template hides a tool that no prompt names, or a prompt is too long.
    """
    if not Path(settings.model).is_dir():
        return (
            f"{settings.model} is not on this machine, so its prompts were not measured: download it "
            f"(hf download {settings.model} --local-dir FOLDER), and give agentfly.model=FOLDER"
        )
    from transformers import AutoProcessor

    from agentfly.training.verl.agent_loop import LoopContext
    from agentfly.training.verl.run_agent import new_chain

    context = LoopContext.of(config, AutoProcessor.from_pretrained(settings.model))
    # The tools of foreign servers stay known when their connections end with this event loop.
    asyncio.run(context.agent.prepare())
    codec = context.codec
    limit, longest = int(config.data.max_prompt_length), 0
    for task in _first(settings, 0)[0]:
        chain = new_chain(context, task, task.id, 0)
        messages, store = chain.trajectory.messages, chain.view.store
        ids = codec.prompt_ids(messages, chain.tools.schemas(), store.get)
        if not longest and ids == codec.prompt_ids(messages, (), store.get):
            _check_words(chain, settings, codec)
        length = len(ids)
        if length > limit:
            raise ConfigError(
                f"the prompt of task {task.id!r} has {length} tokens, data.max_prompt_length is {limit}: raise it, "
                "shorten the system prompt, or make the images smaller"
            )
        longest = max(longest, length)
    return f"prompts have {longest} of {limit} tokens at most"


def _check_words(chain: Chain, settings: TrainSettings, codec: ChatCodec) -> None:
    """Raise for a template that ignores tools, unless the words of the prompt name all of them."""
    words = " ".join(message.text for message in chain.trajectory.messages)
    if not all(tool.name in words for tool in chain.tools):
        raise ConfigError(
            f"the chat template ({settings.template or 'of the policy'}) does not show the tools to the policy, which "
            f"could call none: give agentfly.template={codec.family.templates[0]} or a .jinja file of your own"
        )


def _first(settings: TrainSettings, size: int) -> tuple[list[EditTask], int]:
    """Return the first tasks and the number of tasks; counting stops at `size` where it means reading them."""
    try:
        tasks, ready = training_tasks(settings), ready_file(settings)
        first = list(islice(tasks, FIRST_TASKS))
        if ready is not None:
            return first, count_rows(ready)
        return first, len(first) + sum(1 for _ in islice(tasks, max(0, size - len(first))))
    except DatasetError as fault:
        raise DatasetError(f"agentfly.data.train: {fault}") from fault


# These are quick and do without verl: a run that starts makes them too.
READY: tuple[Check, ...] = (
    readiness.check_policy,
    readiness.check_gpus,
    check_family,
    check_template,
    check_tools,
    check_health,
    readiness.check_servers,
    readiness.check_evaluator,
    readiness.check_sleep,
    readiness.check_audit,
    readiness.check_calibration,
    check_first_tasks,
    readiness.check_positions,
    readiness.check_disk,
)
CHECKS: tuple[Check, ...] = (accept, check_names, check_correction, *READY, check_prompts)
