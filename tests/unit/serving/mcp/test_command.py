"""`agentfly mcp` as clients start it: a program on standard input and output, and one that listens."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from PIL import Image
from typer.testing import CliRunner

from agentfly.cli import app, main
from agentfly.errors import MissingExtraError
from agentfly.serving.mcp.command import serve
from agentfly.serving.mcp.settings import McpServerSettings
from agentfly.tools.mcp import McpServer, McpTools
from tests import programs
from tests.unit.serving.image_server.running import wait_for
from tests.unit.serving.mcp.serving import RED, opened, text_of

ROOT = Path(__file__).resolve().parents[4]
NOISY = '''
from agentfly.tools import tool


@tool
def shout(text: str) -> str:
    """Repeat a text, and write to standard output, where only messages may be."""
    print("this is not a message")
    return text.upper()
'''


def command(folder: Path, *options: str) -> StdioServerParameters:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return StdioServerParameters(
        command=sys.executable, args=["-m", "agentfly.cli", "mcp", *options], env=environment, cwd=folder
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_starts_the_server_and_works_with_it(tmp_path: Path, mode: str) -> None:
    (tmp_path / "noisy_tools.py").write_text(NOISY)
    (tmp_path / "photos").mkdir()
    RED.save(tmp_path / "photos" / "red.png")
    options = ("--tools", "qwen_edit_image", "noisy_tools:shout", "--root", "photos", "--out", "edited")
    async with Client(command(tmp_path, *options), mode=mode) as connected:
        names = [tool.name for tool in (await connected.list_tools()).tools]
        assert names == ["open_image", "save_image", "qwen_edit_image", "shout"]
        assert text_of(await opened(connected, "red.png")).startswith("img_1: 8x8")
        assert text_of(await connected.call_tool("shout", {"text": "hello"})) == "HELLO"
        edited = await connected.call_tool("qwen_edit_image", {"image_id": "img_1", "prompt": "make it darker"})
        assert not edited.is_error
        await connected.call_tool("save_image", {"image_id": "img_2", "file_name": "dark.png"})
    assert Image.open(tmp_path / "edited" / "dark.png").size == (8, 8)


@pytest.mark.slow
async def test_the_configuration_of_the_page_works_in_a_client(tmp_path: Path) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8"), re.DOTALL)
    (server,) = json.loads(block)["mcpServers"].values()
    assert server["command"] == "agentfly"
    verb, *options = [word.replace("/home/me", str(tmp_path)) for word in server["args"]]
    assert verb == "mcp"
    (tmp_path / "Pictures").mkdir()
    RED.save(tmp_path / "Pictures" / "red.png")
    async with Client(command(tmp_path, *options)) as connected:
        await opened(connected, tmp_path / "Pictures" / "red.png")
        saved = await connected.call_tool("save_image", {"image_id": "img_1", "file_name": "copy.png"})
        assert text_of(saved).endswith("copy.png")


@pytest.mark.slow
async def test_a_server_that_listens_serves_several_clients_until_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("TOOLS_KEY", "k-123")
    words = ("-m", "agentfly.cli", "mcp", "--transport", "http", "--port", str(port), "--api-key-env", "TOOLS_KEY")
    server = McpServer(url=f"http://127.0.0.1:{port}/mcp", key_env="TOOLS_KEY", start_timeout=5)
    with programs.started(*words, cwd=tmp_path) as program:

        def listens() -> bool:
            assert program.poll() is None, program.stderr.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, 60)
        async with McpTools(server), McpTools(server):
            pass
        program.send_signal(signal.SIGTERM)
        assert program.wait(30) == 0
        assert program.stdout.read_text() == ""


def test_the_options_reach_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr("agentfly.serving.mcp.command.serve", lambda *given: seen.append(given))
    monkeypatch.setenv("TOOLS_KEY", " k-123\n")
    words = f"--tools edit detect_objects --root {tmp_path} / --out {tmp_path / 'out'} --nodes a:1 b:2 --engine models"
    words += " --transport http --allowed-hosts x.example *.y.example --api-key-env TOOLS_KEY --session-mb 3"
    with pytest.raises(SystemExit) as ended:
        main(["mcp", *words.split(), "--session-minutes", "0.5", "--allow-urls"])
    assert ended.value.code == 0
    ((settings, engine, nodes),) = seen
    assert settings.tools == ("edit", "detect_objects")
    assert settings.root == (tmp_path.resolve(), Path("/"))
    assert settings.connections.allowed_hosts == ("x.example", "*.y.example")
    assert settings.api_key.get_secret_value() == "k-123"
    limits = settings.limits
    assert (limits.session_bytes, limits.idle_seconds, limits.allow_urls) == (3 * 2**20, 30.0, True)
    assert (engine, len(nodes)) == ("models", 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--root", "/nowhere"], "--root: there is no folder '/nowhere'"),
        (["--api-key-env", "NO_SUCH_KEY"], "the environment variable NO_SUCH_KEY is not set"),
        (["--tools", "edti"], "unknown tool 'edti'"),
        (["--engine", "clasical"], "unknown engines 'clasical'"),
    ],
)
def test_wrong_options_end_in_one_line(options: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["mcp", *options])
    assert ended.value.code == 1
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert said in output.err


@pytest.mark.parametrize("use", [lambda: serve(McpServerSettings()), lambda: McpTools(McpServer(command="x"))])
def test_a_missing_sdk_is_named_with_its_extra(use: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mcp" else found(name))
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[mcp\]'"):
        use()


def test_the_help_tells_every_option() -> None:
    shown = CliRunner().invoke(app, ["mcp", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for option in ("--tools", "--engine", "--nodes", "--root", "--out", "--transport", "--allow-urls", "--memory-mb"):
        assert option in shown.output
