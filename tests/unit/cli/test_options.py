"""`--nodes` takes one server or several, wherever it stands."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from agentfly.cli.options import Nodes, NodesCommand, NodesKeyEnv, read_node_options
from agentfly.errors import ConfigError

app = typer.Typer()


@app.command(cls=NodesCommand)
def show(image: str, words: str, nodes: Nodes = None, nodes_key_env: NodesKeyEnv = None, other: str = "") -> None:
    """Tell what was understood."""
    urls = [node.base_url for node in read_node_options(nodes, nodes_key_env)]
    typer.echo(json.dumps([image, words, urls, other]))


def shown(*arguments: str) -> list[object]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    found: list[object] = json.loads(result.output)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["p.png", "Do it: now", "--nodes", "a:1", "b:2"],
        ["p.png", "Do it: now", "--nodes", "a:1,b:2"],
        ["p.png", "Do it: now", "--nodes", "a:1", "--nodes", "http://b:2/v1"],
        ["p.png", "Do it: now", "--nodes=a:1", "b:2"],
        ["--nodes", "a:1", "b:2", "p.png", "Do it: now"],
        ["p.png", "--nodes", "a:1", "b:2", "Do it: now"],
    ],
)
def test_several_values_in_every_way_that_people_write_them(arguments: list[str]) -> None:
    assert shown(*arguments) == ["p.png", "Do it: now", ["http://a:1", "http://b:2"], ""]


def test_an_image_on_the_web_and_another_option_end_the_list() -> None:
    image = "https://example.org/cat.jpg"
    assert shown("--nodes", "a:1", image, "x") == [image, "x", ["http://a:1"], ""]
    assert shown("x", "y", "--nodes", "a:1", "b:2", "--other", "c:3") == ["x", "y", ["http://a:1", "http://b:2"], "c:3"]
    assert shown("--nodes", "a:1", "--", "b:2", "--nodes") == ["b:2", "--nodes", ["http://a:1"], ""]


def test_the_key_of_servers_is_named_and_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_KEY", "geheim")
    (node,) = read_node_options(["a:1"], "NODE_KEY")
    assert node.headers == {"Authorization": "Bearer geheim"}
    with pytest.raises(ConfigError, match="--nodes-key-env has the key of the servers of --nodes"):
        read_node_options(None, "NODE_KEY")
    monkeypatch.delenv("NODE_KEY")
    with pytest.raises(ConfigError, match="--nodes-key-env NODE_KEY: this environment variable is not set"):
        read_node_options(["a:1"], "NODE_KEY")
