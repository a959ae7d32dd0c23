"""`agentfly sft`: train a policy folder, or an adapter, on samples from all sources.

Settings, data and processor are checked before the model is loaded. A finished run folder has `policy/` (all weights)
or `adapter/`; `agentfly export` makes a folder for others from either.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.agents.factory import prompt_of
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.spec import AgentSpec
from agentfly.errors import AgentFlyError, ConfigError, MissingExtraError, first_line
from agentfly.evaluation.settings import refuse_keys
from agentfly.model_source import find_model
from agentfly.provenance import installed_versions
from agentfly.redaction import public_settings
from agentfly.templates import ChatCodec
from agentfly.templates.families import FAMILIES
from agentfly.training.launch.checkpoints import save_processor
from agentfly.training.supervised.config import SupervisedConfig, TrainingConfig
from agentfly.training.supervised.data.batches import Collator
from agentfly.training.supervised.data.samples import Prepared, prepare
from agentfly.training.supervised.loop import Loop, LoopConfig, Step
from agentfly.training.supervised.lora import add_adapters, require_peft
from agentfly.training.supervised.state import MetricsLine, RunFolder

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

POLICY, ADAPTER = "policy", "adapter"
_RATE_FULL, _RATE_LORA = 1e-5, 2e-4

OnMetrics = Callable[[MetricsLine], None]


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Attributes:
        config: see `SupervisedConfig`.
        codec: of the model.
        card: settings with which the model is run as an agent.
        data: prepared samples.
        loop: settings of the loop.
    """

    config: SupervisedConfig
    codec: ChatCodec
    card: PolicyConfig
    data: Prepared
    loop: LoopConfig

    def identity(self) -> dict[str, object]:
        """Return the settings and the data that distinguish this run from others, as plain JSON."""
        unset = {name for name in ("agent", "tools") if getattr(self.config, name) is None}
        config = self.config.model_dump(mode="json", exclude={"out", *unset})
        return {"config": public_settings(config), "data": self.data.summary(), "steps": self.loop.steps}


def plan_run(config: SupervisedConfig, *, resume: bool = False) -> Plan:
    """Read and check everything that a run needs, except the weights.

    Args:
        config: see `SupervisedConfig`.
        resume: the run in its folder, if there is one, may be resumed.

    Raises:
        AgentFlyError: a setting, the model's processor or a source cannot be used; the message says what to do.
    """
    RunFolder(config.out).check_free(resume=resume)
    refuse_keys({"agent": config.agent, "tools": config.tools})
    _device(config.training)
    if config.lora.rank:
        require_peft()
    codec, policy = _codec(config), PolicyConfig.read(config.model)
    spec = AgentSpec(agent=config.agent, tools=config.tools).over(policy.spec, config.model)
    prompt = prompt_of(spec, policy)
    policy = policy.model_copy(update={"agent": spec.agent, "tools": spec.tools, "system_prompt": prompt})
    data = prepare(config.data, codec, spec, system_prompt=prompt, seed=config.training.seed)
    return Plan(config, codec, policy, data, config.training.loop(len(data.training)))


def run_supervised(plan: Plan, *, resume: bool = False, on_metrics: OnMetrics | None = None) -> Path:
    """Train, and return the folder of the policy or of the adapter.

    Args:
        plan: see `plan_run`.
        resume: resume the run in the folder, if there is one.
        on_metrics: called with each line of the metrics.

    Raises:
        ConfigError: the folder holds a run that is not to be resumed, or another one.
        TrainingError: the loss or the gradient is not finite.
    """
    folder = RunFolder(plan.config.out)
    folder.open(plan.identity(), resume=resume)
    loop = _loop(plan)
    done = folder.restore(loop)
    training, held_out = plan.config.training, plan.data.held_out

    def note(step: Step) -> None:
        last = step.step == plan.loop.steps
        line: MetricsLine = asdict(step)
        if held_out and (last or step.step % training.evaluate_every == 0):
            line["held_out_loss"] = loop.evaluate(held_out)
        folder.log(line)
        if last or step.step % training.save_every == 0:
            folder.save(loop, step.step)
        if on_metrics is not None:
            on_metrics(line)

    if done == 0 and held_out and not folder.metrics():
        folder.log({"step": 0, "held_out_loss": loop.evaluate(held_out)})
    loop.run(plan.data.training, note, done=done)
    return _finish(plan, folder, loop)


def _codec(config: SupervisedConfig) -> ChatCodec:
    """Return the codec of the model; raise `ConfigError` unless it is of a model that can be trained here."""
    try:
        codec = ChatCodec.from_pretrained(find_model(config.model, option="model=", weights=True), config.template)
    except AgentFlyError:
        raise
    except (OSError, ValueError) as fault:
        reason = first_line(fault)
        raise ConfigError(f"model={config.model}: no processor can be loaded from there: {reason}") from fault
    if codec.family.trainer != "grids":
        trained = ", ".join(family.title for family in FAMILIES.values() if family.trainer == "grids")
        raise ConfigError(f"model={config.model}: {codec.family.title} cannot be trained here, but {trained} can")
    return codec


def _device(training: TrainingConfig) -> str:
    """Return the device to train on; raise `ConfigError` if it is missing."""
    try:
        import torch
    except ImportError as fault:
        raise MissingExtraError("agentfly sft", "verl") from fault
    if training.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device=cuda, but torch sees no GPU; use training.device=cpu")
    return "cuda" if training.device != "cpu" and torch.cuda.is_available() else "cpu"


def _loop(plan: Plan) -> Loop:
    """Load the model and its optimiser."""
    import torch
    from transformers import AutoModelForImageTextToText

    config, training = plan.config, plan.config.training
    device = _device(training)
    half = training.dtype == "bfloat16" or (training.dtype == "auto" and device == "cuda")
    # Trained weights are in float32, because small steps vanish in bfloat16; frozen ones may be in half precision.
    dtype = torch.bfloat16 if half and config.lora.rank else torch.float32
    torch.manual_seed(training.seed)
    model = AutoModelForImageTextToText.from_pretrained(
        find_model(config.model), dtype=dtype, attn_implementation="sdpa"
    )
    model.to(device)
    collate = Collator.of(model, plan.codec.processor, device)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.config.use_cache = False
    if config.lora.rank:
        model = add_adapters(model, config.lora)
    rate = training.learning_rate or (_RATE_LORA if config.lora.rank else _RATE_FULL)
    return Loop(model, adamw(model, rate, training.weight_decay), plan.loop, collate, autocast=half)


def _finish(plan: Plan, folder: RunFolder, loop: Loop) -> Path:
    """Write the policy or the adapter, with its processor and card, and complete the record."""
    import torch

    name = ADAPTER if plan.config.lora.rank else POLICY
    partial, out = folder.path / f"{name}.partial", folder.path / name
    shutil.rmtree(partial, ignore_errors=True)
    model = loop.model.to(torch.bfloat16) if loop.autocast and name == POLICY else loop.model
    model.save_pretrained(partial)
    save_processor(plan.codec.processor, plan.codec.template, partial)
    plan.card.write(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    lines = folder.metrics()
    losses = [line["loss"] for line in lines if "loss" in line]
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    result = {"loss": sum(losses[-20:]) / len(losses[-20:])}
    if held_out:
        result |= {"held_out_loss_before": held_out[0], "held_out_loss": held_out[-1]}
    folder.note({"result": result, "versions": installed_versions()})
    logger.info("supervised: %d steps, %s", plan.loop.steps, result)
    return out


def adamw(model: torch.nn.Module, peak: float, weight_decay: float) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return AdamW for every weight that is trained.

    Args:
        model: its weights with `requires_grad` are trained.
        peak: learning rate.
        weight_decay: of matrices; biases and norms do not decay.
    """
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [(torch.optim.AdamW([group for group in groups if group["params"]], lr=peak), peak)]
