"""A PPO or GRPO run in some thirty values; everything else is verl's default or in `config/*.yaml`.

`PPOConfig.overrides()` is data, a mapping from verl's keys to values; `to_override` writes one in Hydra's grammar.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

CONFIG_DIR = Path(__file__).parent / "config"
# Hydra writes no files of its own: the run has its log and its folder.
_HYDRA = ("hydra/job_logging=stdout", "hydra.output_subdir=null", "hydra.run.dir=.")
Value: TypeAlias = "str | int | float | bool | Path | list[str] | None"


class Patience(BaseModel):
    """How long each part of a run may take before it counts as hung, in seconds.

    Attributes:
        start: from the start of the process until the first step begins (Ray, workers, rollout engine).
        first_step: the first step, which warms everything up.
        step: each later step, with its validation and checkpoint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float = Field(default=600.0, gt=0)
    first_step: float = Field(default=900.0, gt=0)
    step: float = Field(default=600.0, gt=0)


class PPOConfig(BaseModel):
    """One training run.

    Attributes:
        model_path: Hugging Face folder of the policy (and of the critic's backbone).
        train_files, val_files: parquet files in the layout of `agentfly.training.rows`.
        output_dir: gets `checkpoints/`, `logs/`, `metrics.jsonl`.
        algorithm: "ppo" trains a critic and uses generalised advantage estimation (arXiv:1506.02438); "grpo" compares
            the samples of one prompt with each other (arXiv:2402.03300).
        steps: training steps of the whole run, those of earlier attempts included.
        train_batch_size: prompts a step.
        group_size: samples a prompt.
        mini_batch_size: prompts an optimiser update; all of the step's when None.
        epochs: passes over a step's samples.
        learning_rate, critic_learning_rate: Adam's step sizes.
        clip_low, clip_high: the probability ratio is clipped to [1 - clip_low, 1 + clip_high].
        kl_coef: weight of the KL loss to the initial policy; 0 runs without reference policy.
        entropy_coef: weight of the entropy bonus.
        temperature: of the rollouts.
        max_prompt_length, max_response_length: tokens; a response is the whole chain after the prompt, tool results
            and pictures included.
        max_images: pictures that one chain may hold.
        micro_batch_tokens: tokens that go through the model at once during training.
        save_freq, test_freq: steps between checkpoints and between validations; the last step does both; 0 for never.
        keep_checkpoints: newest checkpoints to keep; all when None.
        validate_first: whether to validate before the first step.
        resume: continue from the newest checkpoint in `output_dir` if there is one.
        agent_loop: registered name of verl's agent loop.
        agent_loop_config: YAML that tells verl how to build it.
        seed: of data order, rollouts and initialisation.
        device: "cpu" adds `config/agentfly_cpu.yaml`, the platform for machines without GPU.
        threads: compute threads a process; on "cpu" trainer and rollout engine take turns.
        patience: time-outs.
        environment: variables for every process of the run.
        extra_overrides: further Hydra overrides, applied last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_path: Path
    train_files: tuple[Path, ...] = Field(min_length=1)
    val_files: tuple[Path, ...] = Field(min_length=1)
    output_dir: Path
    agent_loop_config: Path
    agent_loop: str = "agentfly"
    algorithm: Literal["ppo", "grpo"] = "grpo"
    steps: int = Field(default=10, ge=1)
    train_batch_size: int = Field(default=16, ge=1)
    group_size: int = Field(default=8, ge=1)
    mini_batch_size: int | None = Field(default=None, ge=1)
    epochs: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-6, gt=0)
    critic_learning_rate: float = Field(default=1e-5, gt=0)
    clip_low: float = Field(default=0.2, gt=0)
    clip_high: float = Field(default=0.2, gt=0)
    kl_coef: float = Field(default=0.0, ge=0)
    entropy_coef: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    max_prompt_length: int = Field(default=1024, ge=1)
    max_response_length: int = Field(default=2048, ge=1)
    max_images: int = Field(default=8, ge=1)
    micro_batch_tokens: int = Field(default=16384, ge=1)
    save_freq: int = Field(default=0, ge=0)
    test_freq: int = Field(default=0, ge=0)
    keep_checkpoints: int | None = Field(default=None, ge=1)
    validate_first: bool = False
    resume: bool = False
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=2, ge=1)
    patience: Patience = Patience()
    environment: Mapping[str, str] = {}
    extra_overrides: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.train_batch_size % (self.mini_batch_size or self.train_batch_size):
            raise ValueError(
                f"mini_batch_size={self.mini_batch_size} must divide train_batch_size={self.train_batch_size}"
            )
        if self.algorithm == "grpo" and self.group_size < 2:
            raise ValueError("grpo compares samples of one prompt: set group_size to 2 or more, or algorithm to ppo")
        if self.micro_batch_tokens < self.max_length:
            raise ValueError(f"micro_batch_tokens must hold one whole chain, {self.max_length} tokens or more")
        return self

    @property
    def max_length(self) -> int:
        """Longest chain in tokens."""
        return self.max_prompt_length + self.max_response_length

    @property
    def checkpoint_dir(self) -> Path:
        """Where verl writes `global_step_<n>/`."""
        return self.output_dir / "checkpoints"

    def overrides(self) -> dict[str, Value]:
        """This run in verl's keys. A key that starts with "+" is not in verl's own configuration."""
        values = {**self._data(), **self._policy(), **self._rollout(), **self._trainer()}
        if self.algorithm == "ppo":
            values |= self._critic()
        return values

    def arguments(self) -> list[str]:
        """Command line of verl's trainer: configuration, values of this run, extra overrides."""
        name = "agentfly_cpu" if self.device == "cpu" else "agentfly"
        values = [to_override(key, value) for key, value in self.overrides().items()]
        return ["--config-dir", str(CONFIG_DIR), "--config-name", name, *_HYDRA, *values, *self.extra_overrides]

    def _data(self) -> dict[str, Value]:
        return {
            "data.train_files": [str(path.absolute()) for path in self.train_files],
            "data.val_files": [str(path.absolute()) for path in self.val_files],
            "data.train_batch_size": self.train_batch_size,
            "data.max_prompt_length": self.max_prompt_length,
            "data.max_response_length": self.max_response_length,
            "data.seed": self.seed,
        }

    def _policy(self) -> dict[str, Value]:
        actor = "actor_rollout_ref.actor"
        return {
            "algorithm.adv_estimator": "gae" if self.algorithm == "ppo" else "grpo",
            "actor_rollout_ref.model.path": self.model_path.absolute(),
            f"{actor}.optim.lr": self.learning_rate,
            f"{actor}.ppo_mini_batch_size": self.mini_batch_size or self.train_batch_size,
            f"{actor}.ppo_epochs": self.epochs,
            f"{actor}.use_dynamic_bsz": True,
            f"{actor}.ppo_max_token_len_per_gpu": self.micro_batch_tokens,
            f"{actor}.clip_ratio": self.clip_low,
            f"{actor}.clip_ratio_low": self.clip_low,
            f"{actor}.clip_ratio_high": self.clip_high,
            f"{actor}.use_kl_loss": self.kl_coef > 0,
            f"{actor}.kl_loss_coef": self.kl_coef,
            f"{actor}.entropy_coeff": self.entropy_coef,
            f"{actor}.calculate_entropy": True,
            f"{actor}.data_loader_seed": self.seed,
            f"{actor}.fsdp_config.seed": self.seed,
        }

    def _rollout(self) -> dict[str, Value]:
        rollout = "actor_rollout_ref.rollout"
        return {
            f"{rollout}.n": self.group_size,
            f"{rollout}.temperature": self.temperature,
            # The rollout never samples a picture's placeholder, which the trainer knows nothing of: raw log-probs are
            # without that mask, as the trainer's are, but also without temperature.
            f"{rollout}.logprobs_mode": "raw_logprobs" if self.temperature == 1.0 else "processed_logprobs",
            f"{rollout}.seed": self.seed,
            f"{rollout}.max_model_len": self.max_length,
            f"{rollout}.max_num_batched_tokens": max(2048, self.max_length),
            f"{rollout}.agent.default_agent_loop": self.agent_loop,
            f"{rollout}.agent.agent_loop_config_path": self.agent_loop_config.absolute(),
            f"+{rollout}.engine_kwargs.vllm.limit_mm_per_prompt.image": self.max_images,
            f"+{rollout}.engine_kwargs.vllm.limit_mm_per_prompt.video": 0,
        }

    def _trainer(self) -> dict[str, Value]:
        return {
            "trainer.total_training_steps": self.steps,
            "trainer.save_freq": self.save_freq or -1,
            "trainer.test_freq": self.test_freq or -1,
            "trainer.val_before_train": self.validate_first,
            "trainer.max_actor_ckpt_to_keep": self.keep_checkpoints,
            "trainer.max_critic_ckpt_to_keep": self.keep_checkpoints,
            "trainer.resume_mode": "auto" if self.resume else "disable",
            "trainer.default_local_dir": self.checkpoint_dir.absolute(),
            "trainer.project_name": "agentfly",
            "trainer.experiment_name": self.output_dir.name,
        }

    def _critic(self) -> dict[str, Value]:
        return {
            "critic.model.path": self.model_path.absolute(),
            "critic.optim.lr": self.critic_learning_rate,
            "critic.ppo_max_token_len_per_gpu": self.micro_batch_tokens,
            "critic.data_loader_seed": self.seed,
            "critic.fsdp.seed": self.seed,
        }


def to_override(key: str, value: Value) -> str:
    """One override in Hydra's grammar; texts are quoted, so that paths may hold any character."""
    return f"{key}={_literal(value)}"


def _literal(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    # A backslash counts only before a quote in Hydra's grammar; `$` would start an interpolation of OmegaConf.
    text = str(value).replace("\\'", "\\\\'").replace("'", "\\'").replace("${", "\\${")
    return f"'{text}'"
