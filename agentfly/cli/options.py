"""Options that several verbs share, and the texts of their help.

Image servers are given as `--nodes a:1 b:2`, also with commas between, or with the option repeated.
"""

from __future__ import annotations

import json
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

# The name of a tool or a group, module:name, or JSON; the path of an image has a dot or a slash.
_TOOL = re.compile(r"[A-Za-z_][\w-]*(?:,\S*)?|[\w.]+:[\w.]+(?:,\S*)?|[{\[].*", re.DOTALL)


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
Model = Annotated[
    str | None,
    typer.Option(
        help="Policy folder, hub name, or the endpoint's model name; default: runs/quickstart/policy, or the "
        "endpoint's only model."
    ),
]
ApiKeyEnv = Annotated[str, typer.Option(help="Environment variable with the endpoint's key.")]
Temperature = Annotated[float, typer.Option(help="Sampling temperature; 0 always takes the likeliest token.")]
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


AgentName = Annotated[
    str | None,
    typer.Option(
        "--agent",
        help="image-editing, module:Class of your own, JSON with its arguments, or card: what the policy's card names.",
    ),
]
Tools = Annotated[
    list[str] | None,
    typer.Option(
        "--tools",
        help="Tools: names, groups (edit, look, retouch, compose), module:name; with commas, repeated, or JSON.",
    ),
]


def read_agent(given: str | None) -> str | dict[str, object] | None:
    """Return the value of `--agent`: a name, or the mapping of a JSON object.

    Raises:
        ConfigError: it begins as JSON and is none.
    """
    if given is None or not given.lstrip().startswith("{"):
        return given
    found = _read_json(given, "--agent")
    assert isinstance(found, dict)
    return found


def read_tools(given: Sequence[str] | None) -> tuple[str | dict[str, object], ...] | None:
    """Return the value of `--tools`, None where it is not given.

    Args:
        given: each a name, several with commas between, or a JSON object or list.

    Raises:
        ConfigError: a value begins as JSON and is none.
    """
    found: list[str | dict[str, object]] = []
    for value in given or ():
        if value.lstrip().startswith(("{", "[")):
            read = _read_json(value, "--tools")
            found += read if isinstance(read, list) else [read]
        else:
            found += [name.strip() for name in value.split(",") if name.strip()]
    return tuple(found) if found else None


def _read_json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ConfigError(f"{option} is not valid JSON: {fault}") from fault


def list_choices(literal: object) -> str:
    """Return the choices of a `Literal` for a text of help, where a long metavar would cut the names of options."""
    *others, last = get_args(literal)
    return f"{', '.join(others)} or {last}"


class NodesCommand(ListOptionsCommand):
    """A command whose `--nodes` and `--tools` take several values; an image may follow them."""

    list_options = MappingProxyType({OPTION: _ADDRESS, "--tools": _TOOL})


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
