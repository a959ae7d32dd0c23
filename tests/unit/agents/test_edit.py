"""`agentfly edit` against a real loopback server: the picture is edited, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from agentfly.cli import app, main
from agentfly.datasets.photos import load_photo
from tests.unit.agents.conftest import ChatServer, Reply, delta, stream

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A photograph that comes with scikit-image."""
    load_photo("coffee.png").save(tmp_path / "in.png")
    return tmp_path / "in.png"


def say(text: str) -> Reply:
    return stream(delta(content=text), delta("stop"))


def one_line(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says when it fails."""
    monkeypatch.setattr("sys.argv", ["agentfly", "edit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_a_picture_is_edited(server: ChatServer, path: Path) -> None:
    server.say(say(EDIT), say(ANSWER))
    out = path.with_name("out.png")
    arguments = ["edit", str(path), "Make it darker", "--model", "m", "--base-url", server.url, "-o", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    with Image.open(out) as edited, Image.open(path) as before:
        assert sum(edited.convert("L").tobytes()) < sum(before.convert("L").tobytes())
    assert "qwen_edit_image" in result.output
    assert server.bodies[0]["messages"][0]["role"] == "system"


@pytest.mark.parametrize(("strip", "frames"), [("steps.png", 1), ("made/steps.gif", 3)])
def test_the_steps_are_shown_on_request(server: ChatServer, path: Path, strip: str, frames: int) -> None:
    server.say(say(EDIT), say(ANSWER))
    out, shown = path.with_name("out.jpg"), path.parent / strip
    arguments = ["edit", str(path), "Make it darker", "--model", "m", "--base-url", server.url]
    result = CliRunner().invoke(app, [*arguments, "-o", str(out), "--strip", str(shown), "--engine", "classical"])
    assert result.exit_code == 0, result.output
    assert "shows the steps" in " ".join(result.output.split())
    with Image.open(out) as edited, Image.open(shown) as steps:
        assert edited.format == "JPEG"
        assert getattr(steps, "n_frames", 1) == frames
        assert steps.width == 340 * (3 if frames == 1 else 1)


def test_no_picture_is_one_clear_line_and_the_steps_are_there_all_the_same(
    server: ChatServer, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say(say("I would rather not."))
    strip = path.with_name("steps.png")
    arguments = [str(path), "x", "--model", "m", "--base-url", server.url, "--strip", str(strip)]
    assert "the agent made no picture (no_tool_call)" in one_line(arguments, monkeypatch, capsys)
    assert strip.exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["-o", "out.tif"], "'out.tif' has suffix '.tif': pictures are saved as .png, .jpg, .jpeg, .webp"),
        (["--strip", "steps.mp4"], "the steps are written as a strip (.png) or an animation (.gif)"),
        (["--engine", "clasical"], "Did you mean 'classical'"),
    ],
)
def test_what_cannot_be_is_said_before_the_model_is_asked(
    option: list[str],
    words: str,
    server: ChatServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(path), "x", "--model", "m", "--base-url", server.url, *option]
    assert words in one_line(arguments, monkeypatch, capsys)
    assert not server.bodies


def test_a_picture_that_is_not_there_is_named(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["nowhere.png", "x", "--model", "m", "--base-url", server.url]
    assert "no picture file at 'nowhere.png': check the path" in one_line(arguments, monkeypatch, capsys)


def test_a_missing_policy_names_the_ways_to_have_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    said = one_line([str(path), "x"], monkeypatch, capsys)
    assert "make quickstart" in said
    assert "--base-url" in said
