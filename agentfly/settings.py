"""The base class of all settings that people write: frozen, checked when they are made, with clear errors.

A wrong field raises a `ConfigError` that offers the nearest valid one. Messages never repeat a value, which may be a
secret key.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from agentfly.errors import ConfigError, unknown_name
from agentfly.files import check_named

logger = logging.getLogger(__name__)


# Where a command writes.
OutputPath = Annotated[Path, BeforeValidator(check_named)]


def checked_address(address: str) -> str:
    """Return the address of a server without spaces around it.

    Raises:
        ValueError: no server can have it. The message does not have the address, which may hold a password.
    """
    import httpx

    address = address.strip()
    try:
        url = httpx.URL(address)
        sound = url.scheme in ("http", "https") and bool(url.host) and url.port != 0 and (url.port or 1) < 65536
    except (httpx.InvalidURL, ValueError):  # the latter of names in no valid punycode
        sound = False
    if not sound:
        raise ValueError("no address of a server: write http://HOST:PORT/v1")
    return address


BaseUrl = Annotated[str, AfterValidator(checked_address)]
"""The address of an OpenAI-compatible server as a field of settings."""


class Settings(BaseModel):
    """Immutable settings; every error is a `ConfigError` that names fields as the person wrote them.

    Attributes:
        written_as: prefix of a field where people write it: "agentfly." for a node of a recipe, "--" for the options of
            a command, whose words are joined by hyphens; empty within other settings.
        renamed: fields by their names of one minor version ago, which are still accepted, with a warning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    written_as: ClassVar[str] = ""
    renamed: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **data: Any) -> None:
        for old in self.renamed.keys() & data.keys():
            new = self.renamed[old]
            logger.warning("%s is now called %s; please rename it", self._spelled(old), self._spelled(new))
            # A new name beside it is a default: composed configurations have all names, and only people write old ones.
            data[new] = data.pop(old)
        fields = {self._spelled(name): name for name in type(self).model_fields}
        if self.model_config.get("extra") == "forbid":
            for name in data.keys() - type(self).model_fields.keys():
                raise ConfigError(unknown_name("setting", self._spelled(name), fields))
        try:
            super().__init__(**data)
        except ValidationError as fault:
            faults = []
            for error in fault.errors(include_input=False):
                place = self._spelled(".".join(map(str, error["loc"])))
                message = error["msg"].removeprefix("Value error, ")
                faults.append(f"{place}: {message}" if place else message)
            raise ConfigError("; ".join(faults)) from None

    @classmethod
    def _spelled(cls, name: str) -> str:
        """Return a field, or a dotted place below one, as people write it."""
        if not name:
            return ""
        return cls.written_as + (name.replace("_", "-") if cls.written_as == "--" else name)


def on_or_off(given: object) -> object:
    """Return the settings that true stands for, and None for false.

    Raises:
        ValueError: the value is neither of them, nor a mapping of settings.
    """
    if given is True:
        return {}
    if given is False or given is None:
        return None
    if isinstance(given, Mapping | Settings):
        return given
    raise ValueError("write true, false, or the settings as a mapping")
