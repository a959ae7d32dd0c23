"""Options that several verbs share, and the texts of their help.

Image servers are given as `--nodes a:1 b:2`, also with commas between, or with the option repeated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from agentfly.errors import ConfigError
from agentfly.files import check_named
from agentfly.list_options import ListOptionsCommand

if TYPE_CHECKING:
    from agentfly.vision.remote import NodeConfig

OPTION, KEY_OPTION = "--nodes", "--nodes-key-env"
# HOST:PORT or the address of a server, perhaps followed by a comma and more. The address of an image has a path.
_ADDRESS = re.compile(r"(?:(?:https?://)?[^\s/,]+:\d+|https?://[^\s/,]+)(?:/|/v1/?)?(?:,\S*)?")


def output_option(*spellings: str, help: str) -> Any:
    """Return an option that names a file or folder to write; an empty text is refused."""

    def read(given: str | Path) -> Path:
        try:
            check_named(given)
        except ValueError as fault:
            raise typer.BadParameter(str(fault)) from None
        return Path(given)

    return typer.Option(*spellings, help=help, parser=read, metavar="<path>")


Nodes = Annotated[
    list[str] | None,
    typer.Option(OPTION, help="Image servers for the tools: HOST:PORT, one or several.", metavar="NODE..."),
]
NodesKeyEnv = Annotated[
    str | None, typer.Option(KEY_OPTION, help="Environment variable with the key of the image servers.")
]
BaseUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible endpoint, up to /v1; without it vLLM runs in this process.")
]
Template = Annotated[str | None, typer.Option(help="Chat template; default: the checkpoint's own.")]
MaxTurns = Annotated[int | None, typer.Option(help="Most turns; default: the policy's own limit.")]
Engine = Annotated[
    str | None,
    typer.Option(
        help="Engine behind the tools: classical (the default), models, openai, openai:MODEL, JSON, or a YAML file."
    ),
]


def list_choices(literal: object) -> str:
    """Return the choices of a `Literal` for a text of help, where a long metavar would cut the names of options."""
    *others, last = get_args(literal)
    return f"{', '.join(others)} or {last}"


class NodesCommand(ListOptionsCommand):
    """A command whose `--nodes` takes several values; an image may follow them."""

    list_options = MappingProxyType({OPTION: _ADDRESS})


def read_node_options(nodes: Sequence[str] | None, key_env: str | None) -> list[NodeConfig]:
    """Return the servers of the options `--nodes` and `--nodes-key-env`.

    Args:
        nodes: addresses, also several in one value with commas between; None where the option was not given.
        key_env: environment variable with the key of the servers, or None.

    Raises:
        ConfigError: an address has no known form, or the variable is not set.
    """
    from agentfly.vision.remote.settings import read_nodes

    if key_env is not None and not nodes:
        raise ConfigError(f"{KEY_OPTION} has the key of the servers of {OPTION}: name them too")
    if key_env is not None and not os.environ.get(key_env):
        raise ConfigError(f"{KEY_OPTION} {key_env}: this environment variable is not set; it has the servers' key")
    return read_nodes(nodes, OPTION, key_env)
