"""FSDP2 engines for device "cpu": verl's own, without the steps that need a CUDA driver, and a value model for VLMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import verl.utils.fsdp_utils
import verl.utils.torch_functional
from transformers import AutoModelForImageTextToText, PretrainedConfig
from transformers.modeling_outputs import TokenClassifierOutput
from verl.models.transformers.monkey_patch import apply_monkey_patch
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from agentfly.errors import TrainingError


class _EngineConfig(Protocol):
    forward_only: bool


class _NoPinnedOffload:
    """Builds a forward-only module (the reference policy) without CPU offload.

    verl/workers/engine/fsdp/transformer_impl.py:462 gives each such module CPUOffloadPolicy(pin_memory=True), and
    pinning needs a CUDA driver. On this platform the parameters live on the CPU anyway.
    """

    engine_config: _EngineConfig

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        config, forward_only = self.engine_config, self.engine_config.forward_only
        # verl's configs refuse assignment (verl/base_config.py:__setattr__); this one is restored at once.
        object.__setattr__(config, "forward_only", False)
        try:
            return super()._build_fsdp_module(module)  # type: ignore[misc, no-any-return, unused-ignore]
        finally:
            object.__setattr__(config, "forward_only", forward_only)


class CPULanguageModelEngine(_NoPinnedOffload, FSDPEngineWithLMHead):
    """Policy and reference policy."""


class CPUValueEngine(_NoPinnedOffload, FSDPEngineWithValueHead):
    """The critic: a VLM backbone with a scalar head.

    verl/utils/model.py:641 asks for flash attention and for AutoModelForTokenClassification, which has no entry for
    Qwen2.5-VL, so the module is built here.
    """

    def _build_module(self) -> torch.nn.Module:
        module = build_value_model(self.model_config.local_path, self.model_config.hf_config)
        apply_monkey_patch(model=module, use_remove_padding=False, ulysses_sp_size=1)
        return module


class _ValueHead(torch.nn.Module):
    """A linear head in the place of the language head; mixed into the image-text-to-text class of a family."""

    # There is no language head: nothing to tie to the input embeddings, nothing to load.
    _tied_weights_keys: Mapping[str, str] | None = None
    _keys_to_ignore_on_load_unexpected: Sequence[str] = ("lm_head.weight",)

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        del self.lm_head
        self.score = torch.nn.Linear(config.get_text_config().hidden_size, 1, bias=False)

    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        # The parent class initialises itself before the head exists.
        if module is self._modules.get("score"):
            # Values that start at zero make the first advantages the returns, not the noise of a random head.
            torch.nn.init.zeros_(module.weight)

    def get_output_embeddings(self) -> None:
        return None

    def can_generate(self) -> bool:
        return False

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **inputs: object,
    ) -> TokenClassifierOutput:
        inputs["use_cache"] = False
        hidden = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **inputs
        ).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))


def value_model_class(config: PretrainedConfig) -> type[torch.nn.Module]:
    """Return the value model of a VLM family: the backbone of its image-text-to-text class, and a linear head.

    Args:
        config: configuration of the policy's checkpoint.

    Returns:
        A `PreTrainedModel` subclass whose forward returns `logits` of shape (batch, sequence, 1), as
        `FSDPEngineWithValueHead.prepare_model_outputs` reads them.
    """
    # A member of the public auto class: transformers keeps nowhere else which class loads a configuration.
    generator = AutoModelForImageTextToText._model_mapping[type(config)]
    # transformers finds the renaming of a checkpoint's weights by class name (conversion_mapping.py:1104).
    return type(generator.__name__, (_ValueHead, generator), {})


def build_value_model(path: str, config: PretrainedConfig) -> torch.nn.Module:
    """Load the critic from a policy checkpoint, in fp32; the head, which no checkpoint holds, starts at zero.

    Args:
        path: folder of the checkpoint.
        config: its configuration.

    Raises:
        TrainingError: the checkpoint lacks weights of the backbone, which transformers would replace by random ones.
    """
    critic, report = value_model_class(config).from_pretrained(
        path, config=config, dtype=torch.float32, output_loading_info=True
    )
    if missing := set(report["missing_keys"]) - {"score.weight"}:
        raise TrainingError(
            f"{path} cannot start a critic: {len(missing)} weights of the backbone are missing, such as {min(missing)}"
        )
    return critic


def log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of labels.

    Args:
        logits: of shape (..., vocabulary).
        labels: of shape (...).

    Returns:
        Of shape (...).
    """
    return logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(logits, dim=-1)


_save_shards = verl.utils.fsdp_utils.fsdp2_sharded_save_to_cpu


def save_copies(module: torch.nn.Module) -> tuple[Mapping[str, tuple[torch.Tensor, object]], object]:
    """Return copies of the local parts of a module's parameters by name, and verl's description of the parts.

    verl's function moves them to the CPU, which here gives the very parameters that the next update changes
    (verl/utils/fsdp_utils.py:1180). The trainer `separate_async` would compute the log-probs of all but the first
    mini-batch with other weights than those it means (trainer_separate_async.py:_compute_old_log_prob).

    Args:
        module: wrapped by FSDP2.
    """
    parts, spec = _save_shards(module)
    return {name: (part.clone(), of) for name, (part, of) in parts.items()}, spec


def register_engines() -> None:
    """Register both engines for device "cpu"; safe to call again.

    Also replace verl's log-probs, which loop over the rows of the logits in Python: the engine hands it a row a token
    (verl/utils/torch_functional.py:logprobs_from_logits_v2, called from workers/engine/fsdp/transformer_impl.py:1522),
    and that was a third of the update of a small policy. The values are the same.
    """
    verl.utils.torch_functional.logprobs_from_logits_v2 = log_probs
    verl.utils.fsdp_utils.fsdp2_sharded_save_to_cpu = save_copies  # read at its first use
    for model_type, engine in (("language_model", CPULanguageModelEngine), ("value_model", CPUValueEngine)):
        if "cpu" not in EngineRegistry._engines[model_type]["fsdp2"]:
            EngineRegistry.register(model_type=model_type, backend="fsdp2", device="cpu")(engine)
