"""The recipes as commands: exit codes and files, against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentfly.errors import ConfigError
from agentfly.systems.environment import read_env
from recipes.text_systems.__main__ import main
from recipes.text_systems.settings import number
from recipes.text_systems.website_builder import main as build_website
from recipes.text_systems.website_builder import read_plan
from tests import programs
from tests.unit.agents.conftest import ChatServer, failure
from tests.unit.systems.test_text.conftest import prompt_of, say

ROOT = Path(__file__).resolve().parents[4]
NAMES = ("API_URL", "API_KEY", "MODEL_NAME", "MAX_TOKENS", "TEMPERATURE", "VLLM_API_URL", "VLLM_API_KEY")


@pytest.fixture
def env(server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file as in the example, and an environment that says nothing."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "settings.env"
    lines = [
        f'API_URL="{server.url}"',
        'API_KEY="sk-5"',
        'MODEL_NAME="m-1" # note',
        "MAX_TOKENS=777",
        "TEMPERATURE=0.3",
    ]
    file.write_text("\n".join(lines))
    return file


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name not in NAMES}
    return programs.run("-m", *arguments, cwd=cwd, env={**known, **environment}, timeout=120)


def test_the_documented_command_writes_the_documented_files(server: ChatServer, tmp_path: Path) -> None:
    server.say(*[say("an answer")] * 20)
    settings = {"API_URL": server.url, "MODEL_NAME": "m", "API_KEY": "k"}
    done = run("recipes.text_systems", "--num-calls", "2", cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "run_outputs"
    assert done.stdout.splitlines()[:2] == ["basic …", "  an answer"]
    assert done.stdout.splitlines()[-1] == "outputs are in run_outputs"
    assert (out / "ex1_basic_agent_output.txt").read_text() == "an answer"
    assert (out / "ex2_context_agent_output.txt").read_text() == "an answer"
    assert (out / "ex3_chain_system_output.txt").read_text() == "an answer"
    assert sorted(path.name for path in (out / "ex4_multi_call_outputs").iterdir()) == [
        "website_1.txt",
        "website_2.txt",
    ]
    assert (out / "ex3_chain_steps" / "part_2.txt").exists()
    prompts = [prompt_of(body) for body in server.bodies]
    assert "Harbour Archive" in prompts[1]
    assert any("sextant" in prompt for prompt in prompts)


def test_settings_come_from_the_file_and_the_environment_goes_first(
    server: ChatServer, env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_TOKENS", "55")
    server.say(say("ok"))
    assert main(["--env", str(env), "--only", "basic", "--output-dir", str(tmp_path / "out")]) == 0
    (body,) = server.bodies
    assert (body["model"], body["max_completion_tokens"], body["temperature"]) == ("m-1", 55, 0.3)
    assert server.keys == ["Bearer sk-5"]


def test_the_documents_names_of_address_and_key_are_read(server: ChatServer, tmp_path: Path) -> None:
    server.say(say("an answer"))
    settings = {"VLLM_API_URL": server.url, "VLLM_API_KEY": "sk-9", "MODEL_NAME": "m"}
    done = run("recipes.text_systems", "--only", "basic", cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.keys == ["Bearer sk-9"]


def test_of_two_names_the_environment_wins_and_then_that_of_vllm(
    server: ChatServer, env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--env", str(env), "--only", "basic", "--output-dir", str(tmp_path / "out")]
    env.write_text(env.read_text() + "\nVLLM_API_KEY=sk-file-vllm\n")
    server.say(*[say("ok")] * 3)
    assert main(command) == 0
    monkeypatch.setenv("API_KEY", "sk-environment")
    assert main(command) == 0
    monkeypatch.setenv("VLLM_API_KEY", "sk-environment-vllm")
    assert main(command) == 0
    assert server.keys == ["Bearer sk-file-vllm", "Bearer sk-environment", "Bearer sk-environment-vllm"]


def test_one_example_that_fails_does_not_stop_the_others(
    server: ChatServer, env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say(failure(404, "wrong model id"), say("fine"))
    assert main(["--env", str(env), "--only", "basic", "context", "--output-dir", str(tmp_path / "out")]) == 1
    assert "wrong model id" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ex2_context_agent_output.txt"]


def test_a_text_that_is_not_there_is_told_before_anything_is_asked(
    server: ChatServer, env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env", str(env), "--context", "nowhere.txt", "--output-dir", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "error: no file at 'nowhere.txt': check --context\n"
    assert not (tmp_path / "out").exists()
    assert server.bodies == []


def test_a_failed_example_is_one_line_that_names_the_variable_of_the_key(
    server: ChatServer, env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say(failure(401, "no such key"))
    assert main(["--env", str(env), "--only", "basic", "--output-dir", str(tmp_path / "out")]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "failed:" in line)
    assert line.endswith("check api_key, or set API_KEY (or VLLM_API_KEY)")
    assert "sk-5" not in line


def test_missing_settings_are_named(env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env.write_text("API_KEY=k\n")
    assert main(["--env", str(env), "--output-dir", str(tmp_path)]) == 1
    assert "API_URL (or VLLM_API_URL) and MODEL_NAME not set" in " ".join(capsys.readouterr().err.split())
    assert main(["--env", str(tmp_path / "none"), "--output-dir", str(tmp_path)]) == 1


@pytest.mark.parametrize("command", [["--only", "basic"], ["a bakery"]])
def test_an_interrupted_command_is_one_line_and_130(
    server: ChatServer, env: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    def interrupt(body: dict[str, Any]) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return say("too late")(body)

    server.say(interrupt)
    run_it = main if command[0] == "--only" else build_website
    assert run_it([*command, "--env", str(env), "--output-dir", str(tmp_path / "out")]) == 130
    assert "interrupted: " in capsys.readouterr().err


PLAN = '```json\n{"index.html": "front", "menu.html": "bread", "../evil.html": "no", "x.js": "no"}\n```'


def test_a_website_is_built_from_a_plan(server: ChatServer, env: Path, tmp_path: Path) -> None:
    server.say(say("<think>pages</think>", PLAN), *[say("Here:\n```html\n<html>page</html>\n```\n")] * 2)
    out = tmp_path / "site"
    assert build_website(["a bakery", "--env", str(env), "--output-dir", str(out)]) == 0
    assert sorted(path.name for path in out.glob("*.html")) == ["index.html", "menu.html"]
    assert (out / "menu.html").read_text() == "<html>page</html>\n"
    assert (out / "replies" / "index.html.txt").exists()
    assert not (tmp_path / "evil.html").exists()


def test_a_page_that_fails_is_told_and_the_others_are_kept(server: ChatServer, env: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any]) -> Any:
        return (failure(400, "no") if "menu.html of" in prompt_of(body) else say("<html></html>"))(body)

    server.say(say(PLAN), reply, reply)
    assert build_website(["a bakery", "--env", str(env), "--output-dir", str(tmp_path / "site")]) == 1
    assert [path.name for path in (tmp_path / "site").glob("*.html")] == ["index.html"]


def test_the_website_builder_is_a_command(server: ChatServer, tmp_path: Path) -> None:
    server.say(say("no plan at all"))
    settings = {"API_URL": server.url, "MODEL_NAME": "m"}
    done = run("recipes.text_systems.website_builder", "a bakery", cwd=tmp_path, **settings)
    assert (done.returncode, "gave no plan" in " ".join(done.stderr.split())) == (1, True), done.stderr


def test_a_plan_without_a_front_page_is_refused() -> None:
    with pytest.raises(Exception, match=r"no index\.html"):
        read_plan(json.dumps({"menu.html": "bread"}))


def test_env_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("A='x y'\nexport B=2\nEMPTY=\nONLY\nHOME_LIKE=$HOME\n")
    monkeypatch.setenv("B", "3")
    monkeypatch.delenv("A", raising=False)
    found = read_env(file)
    assert (found["A"], found["B"], found["EMPTY"], found["HOME_LIKE"]) == ("x y", "3", "", "$HOME")
    assert "ONLY" not in found
    monkeypatch.chdir(tmp_path)
    assert read_env()["A"] == "x y"
    assert number(found, "B", int, 1) == 3
    assert number(found, "EMPTY", float, 0.5) == 0.5
    with pytest.raises(ConfigError, match="A is 'x y': set it to a whole number"):
        number(found, "A", int, 1)
    with pytest.raises(ConfigError, match="no settings file"):
        read_env(tmp_path / "other")
