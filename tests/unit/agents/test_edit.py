"""`agentfly edit` against a real loopback server: the picture is edited, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from agentfly.cli import app, main
from tests.unit.agents.conftest import ChatServer, completion

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'


@pytest.fixture
def path(picture: Image.Image, tmp_path: Path) -> Path:
    picture.save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_a_picture_is_edited(server: ChatServer, path: Path) -> None:
    from tests.unit.agents.conftest import delta, stream

    server.say(stream(delta(content=EDIT), delta("stop")), stream(delta(content=ANSWER), delta("stop")))
    out = path.with_name("out.png")
    arguments = ["edit", str(path), "Make it darker", "--model", "m", "--base-url", server.url, "-o", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    with Image.open(out) as edited, Image.open(path) as before:
        assert sum(edited.convert("L").tobytes()) < sum(before.convert("L").tobytes())
    assert "qwen_edit_image" in result.output
    assert server.bodies[0]["messages"][0]["role"] == "system"


def test_no_picture_is_one_clear_line(
    server: ChatServer, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say(completion("I would rather not."))
    arguments = ["agentfly", "edit", str(path), "x", "--model", "m", "--base-url", server.url]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "the agent made no picture" in capsys.readouterr().err


def test_a_missing_policy_names_the_command_that_makes_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["agentfly", "edit", str(path), "x"])
    with pytest.raises(SystemExit):
        main()
    assert "make quickstart" in capsys.readouterr().err
