"""The complete configuration of a run from a recipe and overrides: composed by Hydra, completed, checked, written.

A recipe is a YAML that starts from `agentfly` (our settings on top of verl's `ppo_trainer`) and from a device, which
comes last so that `device=cpu` on the command line replaces every setting that the recipe has for GPUs:

    defaults:
      - agentfly
      - _self_
      - device: cuda

The written configuration is complete: a run can be repeated from its `config.yaml` alone.
"""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.agents.policy_config import PolicyConfig
from agentfly.errors import ConfigError, MissingExtraError, unknown_name
from agentfly.files import read_mapping, yaml_reason
from agentfly.redaction import public_url, secret_entries
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import HasSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Modules that configurations name by their path, as they were called up to version 0.1.
_MOVED = {
    "agentfly.training.loop_worker": "agentfly.training.verl.loop_worker",
    "agentfly.training.reward_manager": "agentfly.training.verl.reward_manager",
    "agentfly.training.sampler": "agentfly.training.verl.replay_buffer",
}
_OLD_MODULE = re.compile(rf"(?P<scheme>(?:pkg://)?)(?P<module>{'|'.join(map(re.escape, _MOVED))})(?=\.|$)")
TEXT_CHAINS = "agentfly.training.verl.text_chains"
CURRICULUM = {"path": "pkg://agentfly.training.verl.curriculum", "name": "CurriculumDataset"}
CONFIG_DIR = Path(__file__).parent / "config"
BASE = "agentfly"
SAMPLER = "WatchfulReplayBuffer"  # of the synchronous trainer; the one of the others has this name with Async
QUESTIONS = "questions"  # in the run's folder: the questions that a judge has made of the tasks
# Hydra keeps its search path in one object for the whole process.
_HYDRA = threading.Lock()
# Below these, verl passes keys on: to Ray, to vLLM, to transformers, and to dataclasses with more fields than its YAML.
PASSED_ON = (
    "ray_kwargs.",
    "agentfly.",  # checked by TrainSettings
    "actor_rollout_ref.rollout.engine_kwargs.",
    "actor_rollout_ref.rollout.enable_sleep_mode",
    "actor_rollout_ref.model.override_config.",
    "actor_rollout_ref.actor.policy_loss.rollout_correction.",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision.",
    "distillation.teacher_models.",
    "critic.model.override_config.",
    "critic.fsdp.mixed_precision.",
)


def compose(recipe: Path, overrides: Sequence[str] = (), *, sizes: bool = True) -> DictConfig:
    """Return the configuration of a run: complete, resolved and checked.

    Args:
        recipe: a YAML file.
        overrides: in Hydra's grammar, e.g. `trainer.nnodes=4` or `device=cpu`; `+key=value` adds a key
            that verl's files do not show.
        sizes: also check that the values fit together; False where `agentfly.training.recipe.checks.size_faults`
            collects what does not.

    Raises:
        ConfigError: the recipe cannot be read, a key is unknown (the nearest is named), a size is no number, or values
            do not fit together.
    """
    from agentfly.training.recipe.checks import check_numbers, check_sizes

    if recipe.is_dir():
        raise ConfigError(f"the recipe {recipe} is a folder: give a YAML file, such as {recipe / 'mine.yaml'}")
    if not recipe.is_file():
        known = sorted(path.stem for path in recipe.parent.glob("*.yaml")) if recipe.parent.is_dir() else []
        hint = unknown_name("recipe", recipe.stem, known) if known else f"there is no recipe {recipe}"
        raise ConfigError(hint)
    read_mapping(recipe, "recipe", "agentfly: {model: FOLDER}")
    config = _compose(recipe.absolute().parent, recipe.stem, overrides)
    _check_keys(config, overrides)
    _update_paths(config)
    settings = settings_of(config)
    # Not in the settings themselves: runs of older versions may hold keys, and are still read.
    for name in secret_entries(settings.model_dump()):
        raise ConfigError(
            f"agentfly: {name}: keys do not belong into the recipe, which is stored with the run: export a variable "
            "before the start, and name it where the service has a setting for that (api_key_env)"
        )
    check_numbers(config)
    _complete(config, settings)
    if sizes:
        check_sizes(config)
    return config


_parsed: dict[str, TrainSettings] = {}  # by content; the processes of a run have one each


def settings_of(config: HasSettings) -> TrainSettings:
    """Return the section `agentfly` of a configuration; equal sections are parsed once in a process.

    Raises:
        ConfigError: a key is unknown or missing, or a value is wrong.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = OmegaConf.to_container(config.agentfly, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as fault:
        raise ConfigError(
            f"agentfly: {fault.full_key or ''} is missing: set it in the recipe or as key=value"
        ) from None
    assert isinstance(node, dict)
    content = repr(node)
    if content not in _parsed:
        _parsed[content] = TrainSettings(**{str(key): value for key, value in node.items()})
    _parsed[content].nodes()  # a run needs them; a reader of a finished run's settings may lack their keys
    return _parsed[content]


def write(config: DictConfig, path: Path) -> Path:
    """Write a configuration as one resolved file that Hydra reads again, and return its path.

    Args:
        config: complete.
        path: file to write; its folder is made if need be.
    """
    from omegaconf import OmegaConf

    path.parent.mkdir(parents=True, exist_ok=True)
    plain = _escaped(OmegaConf.to_container(config, resolve=True))
    text = OmegaConf.to_yaml(OmegaConf.create(plain))
    if public_url(text) != text:
        # An address with a password is for the owner of the run alone.
        path.touch()
        path.chmod(0o600)
    path.write_text(text, encoding="utf-8")
    return path


def _escaped(value: object) -> object:
    """Return a value in which each text is escaped; see `_literally`."""
    if isinstance(value, Mapping):
        return {key: _escaped(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_escaped(child) for child in value]
    return _literally(value) if isinstance(value, str) else value


def _literally(text: str) -> str:
    """Escape a text so that OmegaConf sees no interpolation; it reads backslashes in pairs before one."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)


def _compose(directory: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    try:
        import hydra
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError
    except ImportError as fault:
        raise MissingExtraError("training", "verl") from fault
    path = f"hydra.searchpath=[file://{CONFIG_DIR},file://{verl_config_dir()}]"
    # Our own node may get any key: `TrainSettings` knows which there are.
    opened = [f"++{override}" if override.startswith(f"{BASE}.") else override for override in overrides]
    try:
        with _HYDRA, hydra.initialize_config_dir(str(directory), version_base=None):
            return hydra.compose(name, overrides=[path, *opened])
    except (HydraException, OmegaConfBaseException) as fault:
        message = str(fault)
        found = re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", message)
        if found is None:
            raise ConfigError(f"{directory / name}.yaml: {message.splitlines()[0]}") from None
        key = found[1] or found[2]
        raise ConfigError(f"{unknown_key(key, _known_keys())}; +{key}=… adds it all the same") from None
    except (YAMLError, UnicodeDecodeError, RecursionError) as fault:
        # The recipe itself was read before: this is a file that its defaults name.
        broken = getattr(getattr(fault, "problem_mark", None), "name", f"a file that {directory / name}.yaml names")
        raise ConfigError(f"{broken} is not valid YAML: {yaml_reason(fault)}") from None


def verl_config_dir() -> Path:
    """Return the folder of verl's own configuration, found without importing verl, which takes seconds.

    Raises:
        MissingExtraError: verl is not installed.
    """
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise MissingExtraError("training", "verl")
    return Path(spec.origin).parent / "trainer" / "config"


def unknown_key(key: str, known: Collection[str]) -> str:
    """Return a message for an unknown dotted key; it offers the nearest of those that have the same parents.

    Args:
        key: as it was given.
        known: all keys that there are.
    """
    parts = key.split(".")
    for depth in range(len(parts)):
        parent = ".".join(parts[:depth])
        names = {k.removeprefix(f"{parent}.").split(".")[0] for k in known if not parent or k.startswith(f"{parent}.")}
        if parts[depth] not in names:
            where = f"key of {parent}" if parent else "key"
            return unknown_name(where, parts[depth], names)
    return f"unknown key {key!r}"


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values in nested mappings; an empty mapping is a value."""
    if not isinstance(node, Mapping) or not node:
        yield prefix
        return
    for key, child in node.items():
        yield from _keys(child, f"{prefix}.{key}" if prefix else str(key))


def _container(config: DictConfig) -> dict[str, object]:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(config, resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


@cache
def _known_keys() -> frozenset[str]:
    """Return every key of verl's files and ours: those that a recipe may set."""
    return frozenset(_keys(_container(_compose(CONFIG_DIR, BASE, ()))))


def _check_keys(config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise `ConfigError` for an unknown key: Hydra takes any key from a file, and verl ignores unknown ones."""
    base = _known_keys()
    added = tuple(text.lstrip("+").partition("=")[0] for text in overrides if text.startswith("+"))
    for key in _keys(_container(config)):
        # Where verl has an empty mapping or nothing, more may stand below.
        open_parent = any(key[:end] in base for end, letter in enumerate(key) if letter == ".")
        if key in base or open_parent or key.startswith(PASSED_ON) or (added and key.startswith(added)):
            continue
        if any(known.startswith(f"{key}.") for known in base):
            continue  # a whole mapping was replaced by one value, such as null
        raise ConfigError(unknown_key(key, base))


def _update_paths(node: DictConfig) -> None:
    """Replace old module paths in a configuration, in place: a run folder of an earlier version names them."""
    for key, value in list(node.items_ex(resolve=False)):
        if hasattr(value, "items_ex"):
            _update_paths(value)
        elif isinstance(value, str) and (found := _OLD_MODULE.match(value)):
            node[key] = f"{found['scheme']}{_MOVED[found['module']]}{value[found.end() :]}"


def _complete(config: DictConfig, settings: TrainSettings) -> None:
    """Fill in the values that follow from others."""
    from omegaconf import OmegaConf, open_dict

    rollout, lengths = config.actor_rollout_ref.rollout, config.data
    longest = lengths.max_prompt_length + lengths.max_response_length
    with open_dict(config):
        # The name of the run in every logger; a path is none.
        if config.trainer.experiment_name == config.agentfly.out:
            config.trainer.experiment_name = settings.out.absolute().name
        config.agentfly.out = str(settings.out.absolute())
        _complete_agent(config, settings)
        audit = config.agentfly.audit
        for node in (config.agentfly.evaluator, config.agentfly.reward, getattr(audit, "evaluator", None)):
            _keep_questions(node, settings.out.absolute() / QUESTIONS)
        if Path(settings.model).is_dir():
            config.agentfly.model = str(Path(settings.model).absolute())
        _complete_sampling(config, settings)
        _complete_correction(config)
        if rollout.max_model_len is None:
            rollout.max_model_len = longest
        if settings.device == "cpu":
            rollout.max_num_batched_tokens = max(2048, longest)
            engine = rollout.engine_kwargs.vllm
            if rollout.tensor_model_parallel_size > 1 and engine.get("distributed_executor_backend") == "uni":
                engine.distributed_executor_backend = "mp"  # "uni" is a single process
        if config.trainer.v1.trainer_mode != "sync":
            _complete_asynchronous(config, settings)
        for model in (config.actor_rollout_ref.model, config.critic.model):
            given = model.external_lib
            # verl takes one name, or a list of them.
            named = [given] if isinstance(given, str) else list(given or ())
            model.external_lib = list(dict.fromkeys([*named, TEXT_CHAINS])) if named else TEXT_CHAINS
        # The rollout never samples an image's placeholder, which the trainer knows nothing of: raw log-probs are
        # without that mask, as the trainer's are, but also without temperature.
        rollout.logprobs_mode = "raw_logprobs" if rollout.temperature == 1.0 else "processed_logprobs"
    OmegaConf.set_struct(config, True)


def _complete_asynchronous(config: DictConfig, settings: TrainSettings) -> None:
    """Write what follows from an asynchronous trainer: its replay buffer, and on a CPU its accelerators."""
    from agentfly.training.recipe.checks import rollout_accelerators

    sampler = config.trainer.v1.sampler.custom_sampler
    if sampler.name == SAMPLER:
        sampler.name = f"{SAMPLER}Async"
    if settings.device != "cpu":
        return
    # New weights interrupt a turn, and the rest of it would draw the same random numbers as its beginning.
    config.agentfly.seeded = False
    if config.trainer.v1.trainer_mode == "separate_async":
        # An engine beside the trainer, as verl adds one, would have no core of its own.
        config.actor_rollout_ref.hybrid_engine = False
        needed = config.trainer.n_gpus_per_node * config.trainer.nnodes + rollout_accelerators(config)
        config.ray_kwargs.ray_init.num_gpus = max(config.ray_kwargs.ray_init.num_gpus, needed)


def _complete_sampling(config: DictConfig, settings: TrainSettings) -> None:
    """Set what verl needs for the choice of tasks and groups, in place."""
    if settings.refill is not None:
        config.data.gen_batch_size = 1  # a group is replaced by one task, not by a whole batch
    if settings.curriculum is not None:
        config.data.curriculum = {**settings.curriculum.model_dump(), "chains": config.actor_rollout_ref.rollout.n}
        config.data.custom_cls = CURRICULUM
        config.data.dataloader_num_workers = 0  # tasks are drawn in the process that knows how the last step went


def _complete_correction(config: DictConfig) -> None:
    """Have the loss of the bypass mode used, in place.

    verl's older trainer sets it (verl/trainer/ppo/rollout_corr_helper.py:apply_bypass_mode). Its present one only puts
    the rollout's log-probs in the place of the old ones, so that `rollout_is`, `rollout_rs` and `loss_type` would have
    no effect.
    """
    correction, policy_loss = config.algorithm.rollout_correction, config.actor_rollout_ref.actor.policy_loss
    if correction.bypass_mode and policy_loss.loss_mode == "vanilla":
        policy_loss.loss_mode = "bypass_mode"
        policy_loss.rollout_correction = correction


def _keep_questions(evaluator: object, folder: Path) -> None:
    """Have the questions that a judge makes of the tasks kept in a folder of the run, in place.

    All processes of the run, and a run that continues, then score a task by the same questions.
    """
    if not isinstance(evaluator, MutableMapping):
        return
    if evaluator.get("evaluator") == "questions" and evaluator.get("cache") is None:
        evaluator["cache"] = _literally(str(folder))
    parts = evaluator.get("parts")
    for part in parts.values() if isinstance(parts, Mapping) else ():
        _keep_questions(part, folder)


def _complete_agent(config: DictConfig, settings: TrainSettings) -> None:
    """Write what the policy's card and the agent's class decide, so that the run does not change when they do."""
    from agentfly.agents.factory import prompt_of

    spec, card = settings.spec(), PolicyConfig.read(settings.model)
    if (spec.agent, spec.tools) != (settings.agent, settings.tools):
        config.agentfly.agent = _escaped(spec.agent)
        config.agentfly.tools = None if spec.tools is None else _escaped(list(spec.tools))
    if settings.system_prompt is None and (prompt := prompt_of(spec, card)) != card.system_prompt:
        config.agentfly.system_prompt = _literally(prompt or "")


def to_override(key: str, value: object) -> str:
    """Return one override in Hydra's grammar; texts are quoted, so that paths may hold any character.

    Args:
        key: dotted.
        value: None, a bool, a number, a text, or sequences and mappings of them.
    """
    return f"{key}={_literal(value)}"


def _literal(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, int | float):
        return repr(value)
    # A backslash counts only before a quote in Hydra's grammar; `$` would start an interpolation of OmegaConf.
    text = _literally(str(value)).replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{text}'"
