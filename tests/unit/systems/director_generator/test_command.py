"""The documented commands: exit codes, files, and what stands in them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from agentfly.errors import ConfigError
from recipes.director_generator.__main__ import find_config, main, read_prompt
from tests import programs
from tests.unit.agents.conftest import failure
from tests.unit.systems.director_generator.conftest import RECIPE, ROOT, Configure, StudioServer, said

OPENAI = "config/system_config_openai.yaml"


def result_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def environment(**values: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **values}


def test_the_documented_command(server: StudioServer, tmp_path: Path) -> None:
    settings = environment(OPENAI_API_KEY="EMPTY", VLLM_API_BASE=server.v1)
    words = ("-m", "recipes.director_generator", "sample prompt")
    done = programs.run(*words, cwd=tmp_path, env=settings, timeout=120)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "output")
    assert done.stdout == f"output/{result['id']}.json\n"
    assert (result["prompt"], result["status"]) == ("sample prompt", "threshold")
    names = [image["file"] for phase in result["phases"] for image in phase["images"]]
    assert names == [f"{result['id']}/loop01_plain.png", f"{result['id']}/loop01_lush.png"]
    for name in names:
        assert Image.open(tmp_path / "output" / name).size == (1024, 1024)
    log = (tmp_path / "output" / f"{result['id']}.log").read_text(encoding="utf-8")
    for line in ("round 1, critique: director Light", "system: You are Plain, who writes", "user: This is", "reply: "):
        assert line in log
        assert line in done.stderr


@pytest.mark.slow
def test_the_documented_command_with_a_file_and_openais_preset(
    server: StudioServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", server.v1)
    # Somebody who works with both has this too; it is none of this preset's business.
    monkeypatch.setenv("VLLM_API_BASE", "http://127.0.0.1:9/v1")
    server.score = lambda _: 10
    file = tmp_path / "audio2txt" / "processed" / "0000_45-55.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"segments": [{"start": 45, "text": " A boat "}, {"text": "at sea."}]}), "utf-8")
    out = tmp_path / "output_chatgpt" / "test_0000_45-55"
    code = main(["-f", str(file), "--max-iterations", "2", "--output-dir", str(out), "--config", OPENAI, "--quiet"])
    result = result_of(out)
    assert code == 0
    assert (result["status"], result["counts"]["loops"]) == ("max_loops", 2)
    assert result["prompt"] == "A boat at sea."
    assert {call["model"] for phase in result["phases"] for call in phase["calls"]} == {"gpt-4o", "gpt-4o-mini"}
    assert [phase["phase"] for phase in result["phases"]] == [
        *("brief", "write", "paint", "critique"),
        *("refine", "paint", "critique"),
    ]
    assert server.keys[0] == "Bearer sk-secret"
    assert capsys.readouterr().out == f"{out}/{result['id']}.json\n"
    written = [path.read_text(encoding="utf-8") for path in out.iterdir() if path.is_file()]
    assert "sk-secret" not in "".join(written)


def test_the_other_spelling_of_the_limit(configure: Configure, server: StudioServer, tmp_path: Path) -> None:
    server.score = lambda _: 10
    code = main(["a boat", "--max-iteration", "1", "--config", str(configure()), "--output-dir", str(tmp_path / "o")])
    assert (code, result_of(tmp_path / "o")["counts"]["loops"]) == (0, 1)


def test_runs_into_one_folder_keep_their_own_files(configure: Configure, tmp_path: Path) -> None:
    for _ in range(2):
        assert main(["a boat", "--config", str(configure()), "--output-dir", str(tmp_path / "o")]) == 0
    kinds = sorted(path.suffix for path in (tmp_path / "o").iterdir())
    assert kinds == ["", "", ".json", ".json", ".log", ".log"]


def test_settings_come_from_a_dotenv_file(
    server: StudioServer, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (RECIPE / ".env.example").read_text(encoding="utf-8").replace("=EMPTY", "=sk-from-file")
    text = text.replace("http://127.0.0.1:8000/v1", server.v1)
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    path = configure(vllm={"api_base": "http://127.0.0.1:9/v1"})
    assert main(["a boat", "--config", str(path)]) == 0
    assert set(server.keys) == {"Bearer sk-from-file"}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-set")
    assert main(["a boat", "--config", str(path)]) == 0
    assert server.keys[-1] == "Bearer sk-set"


def test_a_wrong_model_id_ends_with_1_and_leaves_the_record(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configure(models={"qwen": {"model": "Qwen2.5-VL"}})
    assert main(["a boat", "--config", str(path), "--output-dir", str(tmp_path / "o")]) == 1
    assert "The model `Qwen2.5-VL` does not exist" in capsys.readouterr().err
    result = result_of(tmp_path / "o")
    assert (result["status"], result["best"]) == ("failed", None)
    assert "does not exist" in result["phases"][0]["calls"][0]["error"]


def test_the_recursion_limit_ends_with_1_and_keeps_the_best(
    configure: Configure, server: StudioServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.score = lambda _: 10
    path = configure(recursion_limit=6)
    assert main(["a boat", "--config", str(path), "--output-dir", str(tmp_path / "o")]) == 1
    assert "error: recursion_limit of 6 phases reached" in capsys.readouterr().err
    result = result_of(tmp_path / "o")
    assert (result["status"], result["best"]["score"], result["counts"]["images"]) == ("recursion_limit", 10, 4)


def test_failover_is_counted_and_visible(
    configure: Configure, server: StudioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDXL_API_BASE", server.url)
    monkeypatch.setenv("SDXL_FAILOVER_MODE", "mock")
    server.image_faults.append(failure(503, "loading", {"retry-after-ms": "1", "x-should-retry": "false"}))
    assert main(["a boat", "--config", str(configure()), "--output-dir", str(tmp_path / "o")]) == 0
    result = result_of(tmp_path / "o")
    assert (result["counts"]["failovers"], result["counts"]["images"]) == (1, 2)
    (stand_in,) = [p for phase in result["phases"] for p in phase["images"] if p["stand_in"]]
    assert stand_in["engine"] == "mock"
    assert "loading" in stand_in["fault"]
    assert stand_in["file"].endswith("_stand-in.png")
    assert result["best"]["engine"] == f"server {server.v1}"


def test_a_dead_address_ends_the_run_with_1_and_names_it_even_with_failover(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDXL_API_BASE", "http://127.0.0.1:9")
    monkeypatch.setenv("SDXL_FAILOVER_MODE", "mock")
    path = configure(sdxl={"retries": 0})
    assert main(["a boat", "--config", str(path), "--output-dir", str(tmp_path / "o")]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: no image server at http://127.0.0.1:9/v1 (")
    assert told.endswith(": start it, or correct SDXL_API_BASE (sdxl.api_base)")
    result = result_of(tmp_path / "o")
    assert (result["status"], result["counts"]["failovers"], result["best"]) == ("failed", 0, None)


def test_a_run_that_is_interrupted_leaves_what_it_has_done(
    configure: Configure, server: StudioServer, tmp_path: Path
) -> None:
    def interrupt(_: int) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 90

    server.score = interrupt
    assert main(["a boat", "--config", str(configure()), "--output-dir", str(tmp_path / "o")]) == 130
    result = result_of(tmp_path / "o")
    assert result["status"] == "running"
    assert [phase["phase"] for phase in result["phases"]][:3] == ["brief", "write", "paint"]


@pytest.mark.parametrize(
    "flags", [[], ["a", "-f", "b.json"], ["a", "--max-iterations", "many"], ["a", "--no-such-flag"]]
)
def test_wrong_flags_end_with_2(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["a", "--config", OPENAI], "set OPENAI_API_KEY"),
        (["a", "--config", "nowhere.yaml"], "there is no configuration 'nowhere.yaml'"),
        (["a", "--max-iterations", "0"], "max_loops: Input should be greater than or equal to 1"),
        (["-f", "nowhere.json"], "no file at 'nowhere.json': check -f"),
        ([" "], "the prompt is empty"),
    ],
)
def test_what_is_missing_ends_with_1_and_is_named(
    server: StudioServer, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ('"a boat"', "a boat"),
        ('{"prompt": "a boat", "text": "other"}', "a boat"),
        ('{"id": 3, "text": " a boat "}', "a boat"),
        ('[{"text": "a"}, "boat"]', "a boat"),
        ('{"text": "", "segments": [{"text": "a boat"}]}', "a boat"),
    ],
)
def test_prompt_files(tmp_path: Path, content: str, prompt: str) -> None:
    (tmp_path / "p.json").write_text(content, encoding="utf-8")
    assert read_prompt(tmp_path / "p.json") == prompt


@pytest.mark.parametrize("content", ["{}", "7", "{broken", '{"words": "a boat"}'])
def test_files_without_a_prompt_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"p\.json"):
        read_prompt(tmp_path / "p.json")


def test_a_configuration_is_looked_for_here_first(server: StudioServer, tmp_path: Path) -> None:
    assert find_config(Path(OPENAI)) == RECIPE / OPENAI
    (tmp_path / "config").mkdir()
    (tmp_path / OPENAI).write_text("{}", encoding="utf-8")
    assert find_config(Path(OPENAI)).resolve() == tmp_path / OPENAI


# Takes the flags that the script gives to GNU parallel, one job after the other, as where that is not installed.
STAND_IN = """#!/usr/bin/env python3
import os, shlex, subprocess, sys
command = sys.argv[sys.argv.index("-q") + 1:]
assert sys.argv[1:sys.argv.index("-q")] == ["-0", "--jobs", "2", "--lb"], sys.argv
items = [item for item in sys.stdin.read().split("\\0") if item]
failed = 0
for number, item in enumerate(items, 1):
    words = [shlex.quote(word.replace("{#}", str(number)).replace("{}", item)) for word in command]
    failed += subprocess.run([os.environ["SHELL"], "-c", " ".join(words)]).returncode != 0
sys.exit(failed)
"""


@pytest.mark.slow
def test_the_script_shards_files_over_servers(server: StudioServer, configure: Configure, tmp_path: Path) -> None:
    folder = tmp_path / "audio files"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.json").write_text(json.dumps({"text": f"boat {name}"}), encoding="utf-8")
    (folder / "three.json").write_text("{}", encoding="utf-8")
    port = int(server.url.rpartition(":")[2])
    env = environment(
        PATH=f"{_parallel(tmp_path)}:{os.environ['PATH']}", JOBS="2", OUTPUT=str(tmp_path / "out"), GPUS="0",
        SDXL_PORT=str(port), PYTHON=sys.executable, VLLM_API_BASE=server.v1, SDXL_FAILOVER_MODE="mock",
    )  # fmt: skip
    command = [str(RECIPE / "parallel.sh"), str(folder), "--max-iterations", "1", "--config", str(configure())]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    folders = {path.name.split("_", 3)[3]: path for path in (tmp_path / "out").iterdir()}
    assert folders.keys() == {"one", "two", "three"}
    assert "has no prompt" in (folders["three"] / "run.log").read_text(encoding="utf-8")
    for name in ("one", "two"):
        assert result_of(folders[name])["prompt"] == f"boat {name}"
        assert result_of(folders[name])["settings"]["sdxl"]["api_base"] == server.url
        assert "round 1, paint" in (folders[name] / "run.log").read_text(encoding="utf-8")
    assert len(server.images) == 4
    assert {"boat one", "boat two"} <= {word for body in server.chats for word in _lines(said(body))}


def _lines(text: str) -> list[str]:
    return text.splitlines()


def _parallel(tmp_path: Path) -> Path:
    """A folder to look for `parallel` in: empty where the real one is installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    if shutil.which("parallel") is None:
        (folder / "parallel").write_text(STAND_IN, encoding="utf-8")
        (folder / "parallel").chmod(0o755)
    return folder


def test_the_script_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    bash = shutil.which("bash")
    assert bash is not None
    script = str(RECIPE / "parallel.sh")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": str(tmp_path / "bin")}
        return subprocess.run([bash, script, *arguments], env=env, capture_output=True, text=True, timeout=60)

    assert "usage: parallel.sh FOLDER" in run().stderr
    assert "there is no folder /nowhere" in run("/nowhere").stderr
    done = run(str(tmp_path))
    assert (done.returncode, "GNU parallel is not installed" in done.stderr) == (1, True)


def test_the_env_example_names_every_variable_that_is_read() -> None:
    text = (RECIPE / ".env.example").read_text(encoding="utf-8")
    for name in ("OPENAI_API_KEY", "VLLM_API_BASE", "SDXL_API_BASE", "SDXL_FAILOVER_MODE", "STABILITY_API_KEY"):
        assert f"{name}=" in text
    assert not any(line.startswith("SDXL") for line in text.splitlines())


def test_the_presets_differ_in_models_alone() -> None:
    local, cloud = (
        yaml.safe_load((RECIPE / "config" / f"system_config{end}.yaml").read_text("utf-8")) for end in ("", "_openai")
    )
    assert local["sdxl"] == cloud["sdxl"]
