"""The common settings of engines that load a model."""

from __future__ import annotations

from agentfly.settings import Settings
from agentfly.vision.runtime import DType


class ModelSettings(Settings):
    """Which checkpoint, and where it runs.

    Attributes:
        model: folder, or id on the hub.
        revision: commit or tag on the hub.
        device: "auto" (the first GPU, or the CPU), "cpu", "cuda", "cuda:1", ...
        dtype: of the weights; "auto" is bfloat16 on a GPU and float32 elsewhere.
    """

    model: str
    revision: str | None = None
    device: str = "auto"
    dtype: DType = "auto"
