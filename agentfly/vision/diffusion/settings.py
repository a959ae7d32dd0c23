"""Settings of the diffusion engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentfly.errors import ConfigError
from agentfly.vision.model_runtime import ModelSettings

Offload = Literal["none", "model", "sequential"]


class WeightSettings(ModelSettings):
    """The weights, their place in memory, and the number of calls that may use them at once.

    Engines of a process whose `WeightSettings` are equal share one copy of the weights.

    Attributes:
        offload: "model" keeps one part at a time on the GPU, "sequential" one layer at a time (slow, least memory).
        compile: compile the repeated blocks of the denoiser; the first call then takes minutes.
        area: pixels that the model works at for images of any size; None is the area of its training. Less is
            faster: the cost of a step grows at least in proportion to the area.
        concurrency: pipelines that may run at once on these weights. More than 1 pays on a CPU with many cores; on a
            GPU, batches are the better way.
        lora: weights of a LoRA, as a file or "owner/repository:file" on the hub, fused at load; None for none.
        use_fast: the Lightning LoRA with 8 steps, its scheduler, and no guidance (Qwen-Image models only).
        use_ultra_fast: the same with 4 steps.
        lightning_lora: the Lightning LoRA in the form of `lora`; None is the published one.
    """

    offload: Offload = "none"
    compile: bool = False
    area: int | None = Field(None, ge=32 * 32)
    concurrency: int = Field(1, ge=1)
    lora: str | None = None
    use_fast: bool = False
    use_ultra_fast: bool = False
    lightning_lora: str | None = None

    @property
    def lightning_steps(self) -> int | None:
        """Steps of the Lightning LoRA; None without one."""
        if self.use_ultra_fast:
            return 4
        return 8 if self.use_fast else None

    def model_post_init(self, context: object) -> None:
        """Reject settings that contradict each other."""
        if self.offload != "none" and self.concurrency > 1:
            raise ConfigError("offload moves weights between calls: use concurrency=1 with it")
        if self.offload != "none" and self.device == "cpu":
            raise ConfigError("offload moves weights to a GPU and back: use offload='none' with device='cpu'")


class DiffusionSettings(WeightSettings):
    """Settings of an engine on such weights.

    Attributes:
        steps: denoising steps where a request gives none; None is the pipeline's default.
        guidance: guidance scale where a request gives none; None is the pipeline's default.
        max_batch: requests of a batch at most, where the pipeline can take several.
        batch_window_ms: milliseconds that the first request of a batch waits for others, when the weights are idle.
    """

    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0)
    max_batch: int = Field(4, ge=1)
    batch_window_ms: float = Field(5.0, ge=0)

    @property
    def weights(self) -> WeightSettings:
        """The settings of the weights; engines for which they are equal share the weights."""
        return WeightSettings(**{name: getattr(self, name) for name in WeightSettings.model_fields})


class InpainterSettings(DiffusionSettings):
    """Settings of an inpainter.

    Attributes:
        removal_prompt: prompt of the pipeline when the prompt is empty, which asks for a removal.
    """

    model: str = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    removal_prompt: str = "empty background"


class EditorSettings(DiffusionSettings):
    """Settings of an editor.

    Attributes:
        max_images: images of an edit at most, for models that take references. The Qwen-Image-Edit models of 2509 and
            2511 were trained with up to three.
    """

    model: str = "Qwen/Qwen-Image-Edit"
    max_images: int = Field(3, ge=1)
