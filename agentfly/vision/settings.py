"""What all settings of engines have in common: frozen, checked when they are made, wrong ones named."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agentfly.errors import ConfigError, unknown_name
from agentfly.vision.runtime import DType


class EngineSettings(BaseModel):
    """Base of the settings of engines: immutable, and every fault is a `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: Any) -> None:
        for name in data.keys() - type(self).model_fields.keys():
            raise ConfigError(unknown_name(f"{type(self).__name__} field", name, type(self).model_fields))
        try:
            super().__init__(**data)
        except ValidationError as fault:
            # Pydantic's own text repeats the input, which may be a key.
            faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors(include_input=False))
            raise ConfigError(f"{type(self).__name__}: {'; '.join(faults)}") from None


class ModelSettings(EngineSettings):
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
