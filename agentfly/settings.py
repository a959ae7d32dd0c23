"""The base class of all settings that people write: frozen, checked when they are made, with clear errors.

A wrong field is a `ConfigError` that offers the nearest valid one. No message ever repeats a value, which may be a key.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agentfly.errors import ConfigError, unknown_name


class Settings(BaseModel):
    """Immutable settings; every fault is a `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: Any) -> None:
        if self.model_config.get("extra") == "forbid":
            for name in data.keys() - type(self).model_fields.keys():
                raise ConfigError(unknown_name(f"{type(self).__name__} field", name, type(self).model_fields))
        try:
            super().__init__(**data)
        except ValidationError as fault:
            faults = []
            for error in fault.errors(include_input=False):
                place = ".".join(map(str, (type(self).__name__, *error["loc"])))
                faults.append(f"{place}: {error['msg'].removeprefix('Value error, ')}")
            raise ConfigError("; ".join(faults)) from None
