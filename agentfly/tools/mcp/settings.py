"""The settings of one foreign server: how it is reached, what is used of it, and its limits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from agentfly.errors import ConfigError
from agentfly.images.fetch import shown
from agentfly.process_tree import MARKER
from agentfly.redaction import read_key
from agentfly.settings import Settings, checked_address

# What programs need to start, and nothing that may be secret. A run finds its processes by the last one.
_INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER", MARKER)
_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,32}")


class McpServer(Settings):
    """A foreign server whose tools an agent uses: a program on standard input and output, or an address.

    Attributes:
        command: program to start.
        args: its arguments. Other users of the machine see them: give secrets by `env`.
        env: names of the environment variables that the program gets, beside those that programs need to start.
        folder: in which the program starts; None for the working folder.
        url: address of a server that runs, in place of `command`: `https://HOST/mcp`.
        key_env: name of the environment variable with the key that is sent as `Authorization: Bearer KEY`.
        include: names of the tools that are used, as the server lists them; None for all.
        exclude: names of tools that are not used.
        prefix: put before the names of the tools.
        images: for a tool, the names of the arguments that are images. The model gives the id of an image (`img_1`),
            and the server gets the image. Arguments whose schema says that they hold images need no entry.
        image_form: of these images: the base64 of a PNG file, or a data URI with it.
        start_timeout: seconds to start, and to list the tools.
        call_timeout: seconds for one call.
        max_text: characters of a result; what is beyond them is left out, and the result says so.
        max_images: images of a result.
        max_message_bytes: bytes of one message of the server. A server that sends more is given up.
    """

    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    folder: str | None = None
    url: str = ""
    key_env: str | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    prefix: str = ""
    images: Mapping[str, tuple[str, ...]] = {}
    image_form: Literal["base64", "data-uri"] = "base64"
    start_timeout: float = Field(30.0, gt=0, allow_inf_nan=False)
    call_timeout: float = Field(120.0, gt=0, allow_inf_nan=False)
    max_text: int = Field(8000, ge=80)
    max_images: int = Field(4, ge=0)
    max_message_bytes: int = Field(64 * 1024 * 1024, ge=1024)

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> McpServer:
        """Return the settings of the form that recipes have, `{mcp: TARGET, …}`.

        Args:
            options: an address, or a program and its arguments, under `mcp`; and further fields.

        Raises:
            ConfigError: a field is wrong, or the target is neither.
        """
        further = {name: value for name, value in options.items() if name != "mcp"}
        target = options.get("mcp")
        if isinstance(target, str) and target:
            return cls(url=target, **further)
        if isinstance(target, Sequence) and target and all(isinstance(word, str) for word in target):
            return cls(command=target[0], args=tuple(target[1:]), **further)
        raise ConfigError("mcp: give an address, or a program and its arguments: {mcp: [uvx, some-server]}")

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        try:
            return checked_address(url) if url else url
        except ValueError:
            raise ValueError("no address of a server: write https://HOST/mcp") from None

    @field_validator("prefix")
    @classmethod
    def _fits_into_names(cls, prefix: str) -> str:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError("use at most 32 letters, digits, '_' or '-'")
        return prefix

    @model_validator(mode="after")
    def _fits_together(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise ValueError("an MCP server has either a command or a url: give one of them")
        if self.url and (self.args or self.env or self.folder is not None):
            raise ValueError("args, env and folder are for a command: leave them out with a url")
        if self.command and self.key_env is not None:
            raise ValueError("key_env is for a url: name the variable in env, so that the command gets it")
        return self

    @property
    def label(self) -> str:
        """Name of the server for messages."""
        return f"MCP server {self.short_name!r}"

    @property
    def short_name(self) -> str:
        """The address without secrets, or the name of the program."""
        return shown(self.url) if self.url else PurePath(self.command).name

    def environment(self) -> dict[str, str]:
        """Return the environment of the program.

        Raises:
            ConfigError: a variable of `env` is not set.
        """
        for name in self.env:
            if name not in os.environ:
                raise ConfigError(f"{self.label}: the environment variable {name} is not set")
        return {name: os.environ[name] for name in (*_INHERITED, *self.env) if name in os.environ}

    def key(self) -> str | None:
        """Return the key of an address; None where it needs none.

        Raises:
            ConfigError: the variable is not set, or no key.
        """
        if self.key_env is None:
            return None
        if (key := read_key(self.key_env)) is None:
            raise ConfigError(f"{self.label}: the environment variable {self.key_env} is not set; it has the key")
        return key
