"""`agentfly edit` against a real loopback server: the image is edited, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner, Result

from agentfly.agents import StopReason, Trajectory
from agentfly.agents.edit import EditRequest, check_result, same_pixels
from agentfly.cli import app, main
from agentfly.datasets.photos import load_photo
from agentfly.errors import AgentFlyError
from agentfly.images import ImageStore
from tests.unit.agents.conftest import ChatServer, Reply, delta, stream
from tests.unit.vision.remote.fake_node import FakeNode

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


@pytest.mark.slow
def test_an_image_is_edited(server: ChatServer, path: Path) -> None:
    server.say(say(EDIT), say(ANSWER))
    out = path.with_name("out.png")
    arguments = ["edit", str(path), "Make it darker", "--model", "m", "--base-url", server.url, "-o", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    with Image.open(out) as edited, Image.open(path) as before:
        assert sum(edited.convert("L").tobytes()) < sum(before.convert("L").tobytes())
    assert "qwen_edit_image" in result.output
    assert server.bodies[0]["messages"][0]["role"] == "system"


@pytest.mark.slow
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
        assert steps.width == 354 * (3 if frames == 1 else 1)


def test_no_image_is_one_clear_line_and_the_steps_are_there_all_the_same(
    server: ChatServer, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say(say("I would rather not."))
    strip = path.with_name("steps.png")
    arguments = [str(path), "x", "--model", "m", "--base-url", server.url, "--strip", str(strip)]
    said = one_line(arguments, monkeypatch, capsys)
    assert "the agent made no image (no_tool_call): the agent called no tool; try other words" in said
    assert strip.exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["-o", "out.tif"], "'out.tif' has suffix '.tif': images are saved as .png, .jpg, .jpeg, .webp"),
        (["--strip", "steps.mp4"], "the steps are written as a strip (.png) or an animation (.gif)"),
        (["--engine", "clasical"], "Did you mean 'classical'"),
        (["--engine", "{'x'"], "--engine is not valid JSON"),
        (["--engine", "nowhere.yaml"], "cannot read the file of --engine 'nowhere.yaml': No such file"),
        (["--engine", "openai"], "no API key: set OPENAI_API_KEY"),
        (["--engine", '{"editor": "openai"}'], "no API key: set OPENAI_API_KEY"),
        (["--nodes", "localhost"], "--nodes: 'localhost' has no port: write HOST:PORT"),
        (["--nodes", "127.0.0.1:1", "127.0.0.1:2"], "no image server can be used (http://127.0.0.1:1: cannot connect"),
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
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = [str(path), "x", "--model", "m", "--base-url", server.url, *option]
    assert words in one_line(arguments, monkeypatch, capsys)
    assert not server.bodies


def test_an_image_that_is_not_there_is_named(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["nowhere.png", "x", "--model", "m", "--base-url", server.url]
    assert "no image file at 'nowhere.png': check the path" in one_line(arguments, monkeypatch, capsys)


def test_a_missing_policy_names_the_ways_to_have_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    said = one_line([str(path), "x"], monkeypatch, capsys)
    assert "make quickstart" in said
    assert "--base-url" in said


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["edit", *map(str, arguments)])


def test_an_unchanged_image_has_an_exit_code_of_its_own_and_says_who_refused(server: ChatServer, path: Path) -> None:
    refused = '<tool_call>{"name": "auto_inpaint_image", "arguments": {"image_id": "img_1", "detect_prompt": "lamp"}}'
    answer = ANSWER.replace("img_2", "img_1")
    server.say(say(f"{refused}</tool_call>"), say(answer))
    out = path.with_name("out.png")
    result = command(path, "Remove the lamp", "--model", "m", "--base-url", server.url, "-o", out)
    assert result.exit_code == 3
    said = " ".join(result.stderr.split())
    assert f"the image is unchanged, so {out} was not written: auto_inpaint_image said: " in said
    assert "try --engine models (on a GPU), --engine openai (with a key), or --nodes HOST:PORT" in said
    assert not out.exists()


def test_an_image_service_that_is_away_is_told_without_advice_about_words(
    server: ChatServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "geheim")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    server.say(say(EDIT), say(ANSWER.replace("img_2", "img_1")))
    result = command(path, "x", "--model", "m", "--base-url", server.url, "--engine", "openai")
    told = f"{result.output} {result.exception}"
    assert result.exit_code != 0
    assert "the image model openai did not answer" in " ".join(told.split())
    assert "other words" not in told
    assert "geheim" not in told


def test_a_tool_that_changed_nothing_is_named_where_none_refused(server: ChatServer, path: Path) -> None:
    Image.new("RGB", (64, 64), (90, 90, 90)).save(path)
    server.say(say(EDIT.replace("darken", "make it grey")), say(ANSWER.replace("img_2", "img_1")))
    result = command(path, "Make it grey", "--model", "m", "--base-url", server.url)
    assert result.exit_code == 3, result.output
    assert "the agent called qwen_edit_image, which changed nothing; try other words" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Image.new("L", (4, 4), 7), Image.new("RGB", (4, 4), (7, 7, 7)), True),
        (Image.new("RGB", (4, 4)), Image.new("RGBA", (4, 4), (0, 0, 0, 255)), True),
        (Image.new("RGB", (4, 4)), Image.new("RGBA", (4, 4), (0, 0, 0, 254)), False),
        (Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5)), False),
    ],
)
def test_pixels_are_compared_not_modes(one: Image.Image, other: Image.Image, same: bool) -> None:
    assert same_pixels(one, other) is same


@pytest.mark.parametrize("stopped", [reason for reason in StopReason if reason.failed])
def test_a_chain_that_failed_is_a_failure_without_advice_though_it_made_an_image(stopped: StopReason) -> None:
    store = ImageStore()
    made = store.put(Image.new("RGB", (8, 8)))
    trajectory = Trajectory("t", "t", [], stop_reason=stopped, error="cannot reach it", final_image=made)
    with pytest.raises(AgentFlyError) as fault:
        check_result(trajectory, store, EditRequest("p", "x", Path("o.png")))
    assert str(fault.value) == "cannot reach it"


@pytest.mark.slow
def test_the_only_model_of_an_endpoint_is_asked_and_the_folder_of_the_quickstart_never(
    server: ChatServer, path: Path
) -> None:
    server.models = ["only"]
    server.say(say(EDIT), say(ANSWER))
    result = command(path, "Make it darker", "--base-url", server.url, "-o", path.with_name("out.png"))
    assert result.exit_code == 0, result.output
    assert {body["model"] for body in server.bodies} == {"only"}


def test_an_endpoint_that_is_away_is_one_line_in_seconds(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(path), "x", "--model", "m", "--base-url", "http://127.0.0.1:1/v1"]
    said = one_line(arguments, monkeypatch, capsys)
    assert said.startswith("error: cannot reach http://127.0.0.1:1/v1")
    assert "other words" not in said


@pytest.mark.slow
def test_the_key_of_another_variable_reaches_the_endpoint(
    server: ChatServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "geheim")
    server.wanted = "geheim"
    server.say(say(EDIT), say(ANSWER))
    out = path.with_name("out.png")
    result = command(path, "x", "--model", "m", "--base-url", server.url, "-o", out, "--api-key-env", "MY_KEY")
    assert result.exit_code == 0, result.output
    assert set(server.keys) == {"Bearer geheim"}
    assert "geheim" not in result.output


def test_servers_with_a_key_do_the_work_and_a_silent_one_is_named(
    server: ChatServer, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NODE_KEY", "geheim")
    server.say(say(EDIT), say(ANSWER))
    out = path.with_name("out.png")
    with FakeNode().up() as node:
        told = [node.url, "127.0.0.1:1", "--nodes-key-env", "NODE_KEY"]
        result = command(path, "x", "--model", "m", "--base-url", server.url, "-o", out, "--nodes", *told)
    assert result.exit_code == 0, result.output
    assert node.keys == ["Bearer geheim"]
    assert "image servers that cannot be used: http://127.0.0.1:1: cannot connect" in caplog.text
    with Image.open(out) as edited:
        assert edited.getpixel((0, 0)) == (1, 2, 3)


def test_what_a_server_says_does_not_steer_the_terminal(
    server: ChatServer, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models = ["\x1b[2Jone", "two"]
    said = one_line([str(path), "x", "--base-url", server.url], monkeypatch, capsys)
    assert "serves \ufffd[2Jone, two" in said


@pytest.mark.slow
def test_an_agent_and_tools_of_ones_own_edit(server: ChatServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "own_agent_that_edits.py").write_text(
        "from PIL import Image, ImageOps\n\nfrom agentfly.agents import ImageEditingAgent\n"
        "from agentfly.tools import tool\n\n\n"
        "class Own(ImageEditingAgent):\n    default_system_prompt = 'You mirror.'\n\n\n"
        '@tool\ndef mirror(image: Image.Image) -> Image.Image:\n    """Mirror."""\n    return ImageOps.mirror(image)\n'
    )
    monkeypatch.syspath_prepend(str(path.parent))
    call = '<tool_call>{"name": "mirror", "arguments": {"image": "img_1"}}</tool_call>'
    server.say(say(call), say(ANSWER))
    out, own = path.with_name("out.png"), "own_agent_that_edits"
    arguments = ["edit", "--agent", f"{own}:Own", "--tools", "give_answer", f"{own}:mirror", str(path), "Mirror it"]
    result = CliRunner().invoke(app, [*arguments, "--model", "m", "--base-url", server.url, "-o", str(out)])
    assert result.exit_code == 0, result.output
    with Image.open(out) as edited, Image.open(path) as before:
        assert edited.convert("RGB").tobytes() == ImageOps.mirror(before.convert("RGB")).tobytes()
    body = server.bodies[0]
    assert body["messages"][0]["content"] == "You mirror."
    assert [tool["function"]["name"] for tool in body["tools"]] == ["give_answer", "mirror"]
