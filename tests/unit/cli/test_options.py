"""`--nodes` and `--tools` take one value or several, wherever they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from agentfly.cli import app as commands
from agentfly.cli.options import (
    AgentName,
    Nodes,
    NodesCommand,
    NodesKeyEnv,
    Tools,
    read_agent,
    read_node_options,
    read_tools,
)
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


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "--data", "stickers", "--out", ""],
        ["eval", "--data", "stickers", "-o", " "],
        ["compare", "a", "b", "--out", ""],
        ["replay", "a", "--evaluator", "reference", "--out="],
        ["edit", "a.png", "darker", "--out", ""],
        ["edit", "a.png", "darker", "--strip", ""],
        ["generate", "a cat", "--output-dir", ""],
        ["quickstart", "--out", ""],
        ["export", "a", "--out", ""],
        ["data", "convert", "stickers", "--out", ""],
    ],
    ids=" ".join,
)
def test_an_empty_output_does_not_stand_for_the_working_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(commands, words)
    assert result.exit_code == 2
    assert "names no file or folder" in " ".join(result.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_an_empty_output_in_a_file_of_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eval.yaml").write_text("data: stickers\nout: ''\n")
    for words, field in ((["eval", "--config", "eval.yaml"], "--out"), (["sft", "model=m", "out="], "out")):
        result = CliRunner().invoke(commands, words)
        assert isinstance(result.exception, ConfigError)
        assert field in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["eval.yaml"]


def test_tools_are_names_lists_and_json_and_an_argument_may_follow() -> None:
    app, got = typer.Typer(), dict[str, object]()

    @app.command(cls=NodesCommand)
    def show(image: str, tools: Tools = None, agent: AgentName = None) -> None:
        got.update(image=image, tools=read_tools(tools), agent=read_agent(agent))

    server = '{"mcp": "http://localhost:1/mcp"}'
    words = ["--tools", "edit,look", "my.tools:brighten", server, "cat.jpg", "--agent", '{"agent": "a:B", "size": 3}']
    assert CliRunner().invoke(app, words).exit_code == 0
    assert got["tools"] == ("edit", "look", "my.tools:brighten", {"mcp": "http://localhost:1/mcp"})
    assert (got["image"], got["agent"]) == ("cat.jpg", {"agent": "a:B", "size": 3})
    got.clear()
    assert CliRunner().invoke(app, ["cat.jpg"]).exit_code == 0
    assert got == {"image": "cat.jpg", "tools": None, "agent": None}
    with pytest.raises(ConfigError, match="--tools is not valid JSON"):
        read_tools(["{oops"])
