"""The deploy command: what `vllm serve` is told, and how the process is kept, with a stand-in for vLLM."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from typer.testing import CliRunner

from agentfly.agents.llm_backends.vllm_defaults import is_cpu_build
from agentfly.errors import ConfigError
from agentfly.serving import deploy
from agentfly.serving.deploy import DeploySettings, app, arguments, take_keys
from agentfly.serving.supervisor import Endpoint
from agentfly.templates import load_template
from tests import programs

# Notes how it was called, answers as vLLM does, and does what its MODE says.
STAND_IN = """
import http.server, json, os, pathlib, signal, subprocess, sys, time
arguments, folder, mode = sys.argv[1:], pathlib.Path(os.environ["NOTES"]), os.environ.get("MODE", "")
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
template = arguments[arguments.index("--chat-template") + 1] if "--chat-template" in arguments else None
text = pathlib.Path(template).read_text() if template else None
noted = {"arguments": arguments, "pid": os.getpid(), "worker": worker.pid, "template": text}
noted["environment"] = dict(os.environ)
config = arguments[arguments.index("--config") + 1] if "--config" in arguments else None
noted["config"] = [pathlib.Path(config).read_text(), os.stat(os.path.dirname(config)).st_mode] if config else None
(folder / "new").write_text(json.dumps(noted))
(folder / "new").rename(folder / "called.json")
if mode == "fails":
    sys.exit(7)
if mode == "crashes":
    os.kill(os.getpid(), signal.SIGKILL)

def stop(number, frame):
    with open(folder / "signals", "a") as file:
        file.write(f"{number} ")
    if mode != "stubborn":
        os._exit(40 + number)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers.get("Authorization") == "Bearer sk-1"
        status = 503 if mode == "sick" else 200 if self.path == "/health" or known else 401
        self.send_response(status)
        self.end_headers()
        if self.path == "/v1/models" and status == 200:
            self.wfile.write(json.dumps({"data": [{"id": "tiny"}, {"id": "also"}]}).encode())
    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Handler).serve_forever()
"""
DRIVER = (
    "import sys; from agentfly.serving import deploy; deploy.VLLM = (sys.executable, sys.argv.pop(1)); deploy.main()"
)


def read_settings(argv: list[str]) -> DeploySettings:
    """Return the settings that the command makes of its options, without serving."""
    with patch.object(deploy, "deploy", return_value=0) as started:
        shown = CliRunner().invoke(app, argv)
    assert shown.exit_code == 0, shown.output
    settings: DeploySettings = started.call_args.args[0]
    return settings


def told(*argv: str, cpu: bool = False, template_file: Path | None = None) -> list[str]:
    return arguments(read_settings(["--model_name_or_path", "m", *argv]), template_file, cpu=cpu)


def pairs(words: list[str]) -> dict[str, str]:
    return dict(zip(words, [*words[1:], ""], strict=True))


def test_dashes_and_underscores_are_one() -> None:
    dashes = "--model-name-or-path m --template t --gpu-memory-utilization 0.5 --tool-call-parser hermes --tp 2 --dp 3"
    assert read_settings(dashes.split()) == read_settings(dashes.replace("-", "_").replace("__", "--").split())


def test_the_documented_command() -> None:
    line = "--model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --template qwen2.5-vl-system-tool --tp 2 --pp 4 --dp 2"
    settings = read_settings([*line.split(), "--gpu_memory_utilization", "0.8", "--host", "::", "--port", "9000"])
    words = arguments(settings, None, cpu=False)
    assert words[:2] == ["serve", "Qwen/Qwen2.5-VL-3B-Instruct"]
    flags = pairs(words)
    assert [flags[f"--{kind}-parallel-size"] for kind in ("tensor", "pipeline", "data")] == ["2", "4", "2"]
    assert (flags["--gpu-memory-utilization"], flags["--host"], flags["--port"]) == ("0.8", "::", "9000")
    assert json.loads(flags["--limit-mm-per-prompt"]) == {"image": 8, "video": 0}
    assert "--dtype" not in flags


def test_on_a_cpu_vllm_gets_what_it_needs_there() -> None:
    words = told(cpu=True)
    flags = pairs(words)
    assert (flags["--dtype"], flags["--kv-cache-memory-bytes"]) == ("float32", "134217728")
    assert {"--enforce-eager", "--no-enable-chunked-prefill"} <= set(words)
    assert "--kv-cache-memory-bytes" not in told("--gpu-memory-utilization", "0.3", cpu=True)


@pytest.mark.parametrize("flag", ["-dph", "-O3", "-O.mode=3", "-dpl=2", "-h"])
def test_short_flags_of_vllm_go_through(flag: str) -> None:
    settings = read_settings(["-tp", "2", flag, "--model", "m", "-dp=3"])
    assert (settings.tp, settings.dp, settings.flags) == (2, 3, (flag,))


def test_unknown_flags_go_through_as_they_are_and_before_our_defaults() -> None:
    extra = ["--max_model_len=1024", "--dtype=bfloat16", "--enable-chunked-prefill", "--limit-mm-per-prompt.image", "3"]
    words = told(*extra, "--hf-overrides", '{"a_b": 1}', cpu=True)
    assert words[-7:] == [*extra, "--hf-overrides", '{"a_b": 1}']
    before = words[:-7]
    assert not {"--dtype", "--no-enable-chunked-prefill", "--limit-mm-per-prompt"} & set(before)


def test_what_a_request_leaves_out_is_not_taken_from_the_checkpoint() -> None:
    assert pairs(told())["--generation-config"] == pairs(told(cpu=True))["--generation-config"] == "vllm"
    for flag in (["--generation-config", "auto"], ["--generation_config=auto"]):
        words = told(*flag)
        assert words[-len(flag) :] == flag
        assert "vllm" not in words
    # It is not the same option.
    override = ["--override-generation-config", '{"top_k": 5}']
    assert pairs(told(*override))["--generation-config"] == "vllm"
    assert "--generation-config auto" in " ".join(CliRunner().invoke(app, ["--help"]).output.split())


@pytest.mark.parametrize("name", ["qwen2.5-vl-system-tool", "qwen2.5-vl", "qwen3-vl", "compact-tool"])
def test_a_template_brings_its_parser(name: str, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text(load_template(name))
    words = told(template_file=file)
    flags = pairs(words)
    assert (flags["--chat-template"], flags["--chat-template-content-format"]) == (str(file), "openai")
    assert flags["--tool-call-parser"] == "hermes"
    assert "--enable-auto-tool-choice" in words
    assert pairs(told("--tool-call-parser", "xlam", template_file=file))["--tool-call-parser"] == "xlam"
    assert pairs(told("--chat_template_content_format", "string", template_file=file)) != flags


def test_without_a_parser_a_word_of_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages[0].content }}")
    assert "--enable-auto-tool-choice" not in told(template_file=file) + told()
    assert caplog.text.count("no tool calls will be read") == 2


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        ([], {}, Endpoint("0.0.0.0", 8000)),
        (["--api-key", "a", "b"], {"VLLM_API_KEY": "c"}, Endpoint("0.0.0.0", 8000, "a")),
        (["--api_key=a", "--ssl-certfile", "x"], {}, Endpoint("0.0.0.0", 8000, "a", True)),
        (["--host", "::1"], {"VLLM_API_KEY": "c"}, Endpoint("::1", 8000, "c")),
    ],
)
def test_endpoint(
    argv: list[str], environment: dict[str, str], expected: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    endpoint = read_settings(["--model", "m", *argv]).endpoint()
    assert endpoint == expected
    assert "api_key" not in repr(endpoint)


def test_addresses_to_call() -> None:
    assert Endpoint("0.0.0.0", 1).url == "http://127.0.0.1:1/v1"
    assert Endpoint("::", 1, secure=True).url == "https://[::1]:1/v1"
    assert Endpoint("box", 1).url == "http://box:1/v1"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match="is taken"):
        Endpoint("0.0.0.0", other.getsockname()[1]).check_free()


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command with options with which it must not start anything, and return its error."""

    def run(*argv: str) -> str:
        ended = CliRunner().invoke(app, argv)
        assert ended.exit_code == 2
        return ended.stderr

    monkeypatch.setattr(deploy, "VLLM", ["/no/such/program"])
    return run


def test_mistakes_end_before_anything_is_started(mistake: Callable[..., str]) -> None:
    said = mistake("--model", "m", "--template", "qwen3-lv")
    assert said.startswith("deploy: ")
    assert "Did you mean 'qwen3-vl'" in said
    assert "--model_name_or_path" in mistake("--template", "qwen3-vl")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_start_timeout_that_is_no_time_ends_it_before_anything_is_started(
    mistake: Callable[..., str], seconds: str, tmp_path: Path
) -> None:
    model = str(checkpoint(tmp_path / "m"))
    said = mistake("--model", model, "--start-timeout", seconds)
    assert said == f"deploy: --start-timeout {seconds}: give a number of seconds above 0\n"
    assert "give a number from 1 to 65535" in mistake("--model", model, "--port", "99999")


def test_a_model_that_cannot_be_had_ends_it_before_anything_is_started(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "hf download somebody/nothing --local-dir FOLDER" in mistake("--model", "somebody/nothing")
    assert "has no config.json" in mistake("--model", str(tmp_path))


class Run:
    """A deploy command under way, until the stack is closed."""

    def __init__(self, stack: ExitStack, folder: Path, *argv: str, mode: str = "", prelude: str = "") -> None:
        self.folder = folder
        program = folder / "vllm.py"
        program.write_text(STAND_IN)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = ["-c", prelude + DRIVER, str(program), "--model_name_or_path", str(checkpoint(folder / "model"))]
        command += ["--host", "127.0.0.1", "--port", str(self.port), *argv]
        environment = {**os.environ, "NOTES": str(folder), "MODE": mode, "VLLM_CPU_KVCACHE_SPACE": ""}
        self.process = stack.enter_context(programs.started(*command, env=environment))

    def called(self) -> dict[str, Any]:
        wait_for((self.folder / "called.json").exists)
        return dict(json.loads((self.folder / "called.json").read_text()))

    def line(self, part: str) -> str:
        wait_for(lambda: part in self.process.stderr.read_text())
        return next(line for line in self.process.stderr.read_text().splitlines() if part in line)

    def signals(self) -> str:
        file = self.folder / "signals"
        return file.read_text() if file.exists() else ""


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def checkpoint(folder: Path) -> Path:
    """A folder with the names of a checkpoint."""
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    return folder


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    with ExitStack() as stack:
        yield lambda *argv, **how: Run(stack, tmp_path, *argv, **how)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_hands_signals_on_and_ends_with_the_servers_code(
    run: Callable[..., Run], number: signal.Signals
) -> None:
    serving = run("--template", "qwen3-vl", "--api-key", "sk-1", "--max-model-len", "64")
    ready = serving.line("ready after")
    assert f"at http://127.0.0.1:{serving.port}/v1, serving tiny, also" in ready
    called = serving.called()
    assert called["template"] == load_template("qwen3-vl")
    assert called["arguments"][-2:] == ["--max-model-len", "64"]
    assert called["environment"]["VLLM_API_KEY"] == "sk-1"
    assert called["environment"].get("TORCHDYNAMO_DISABLE") == ("1" if is_cpu_build() else None)
    assert "VLLM_CPU_KVCACHE_SPACE" not in called["environment"]
    serving.process.send_signal(number)
    assert serving.process.wait(30) == 40 + number
    assert serving.signals() == f"{int(number)} "
    wait_for(lambda: gone(called["worker"]))


def test_a_policys_own_template_brings_its_parser(run: Callable[..., Run], tmp_path: Path) -> None:
    checkpoint(tmp_path / "policy")
    (tmp_path / "policy" / "chat_template.jinja").write_text(load_template("qwen3-vl"))
    (tmp_path / "policy" / "agentfly.json").write_text("{}")
    called = run("--model", str(tmp_path / "policy")).called()
    assert called["template"] == load_template("qwen3-vl")
    assert pairs(called["arguments"])["--tool-call-parser"] == "hermes"


@pytest.mark.parametrize("others", [True, False])
def test_a_template_of_others_is_left_to_vllm(run: Callable[..., Run], tmp_path: Path, others: bool) -> None:
    checkpoint(tmp_path / "policy")
    (tmp_path / "policy" / "chat_template.jinja").write_text(load_template("qwen3-vl"))
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    if not others:
        (tmp_path / "policy" / "agentfly.json").write_text("{}")
    flags = [] if others else ["--chat-template", str(tmp_path / "mine.jinja")]
    called = run("--model", str(tmp_path / "policy"), *flags).called()
    assert called["template"] == (None if others else "{{ messages }}")
    assert "--chat-template-content-format" not in called["arguments"]


def test_a_server_that_hides_its_models_is_ready_all_the_same(run: Callable[..., Run]) -> None:
    assert "(it does not list its models)" in run().line("ready after")


@pytest.mark.parametrize(("mode", "code"), [("fails", 7), ("crashes", 128 + 9)])
def test_a_server_that_ends_by_itself_gives_its_exit_code(run: Callable[..., Run], mode: str, code: int) -> None:
    serving = run(mode=mode)
    assert serving.process.wait(30) == code
    wait_for(lambda: gone(serving.called()["worker"]))


def test_a_server_that_never_answers_is_stopped(run: Callable[..., Run]) -> None:
    serving = run("--start_timeout", "0.5", mode="sick")
    assert "did not answer within 0.5 s" in serving.line("did not answer")
    assert serving.process.wait(30) == 1
    # 15 is what it was told; it had no time to hear it if Python had not come so far.
    assert serving.signals() in ("15 ", "")
    wait_for(lambda: gone(serving.called()["pid"]) and gone(serving.called()["worker"]))


def test_a_server_that_does_not_stop_is_killed_in_the_end(run: Callable[..., Run]) -> None:
    serving = run(mode="stubborn", prelude="from agentfly.serving import supervisor; supervisor.STOP_PATIENCE = 0.5\n")
    serving.line("ready after")
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(30) == 128 + 9
    assert serving.signals() == "15 "


@pytest.mark.parametrize("mode", ["", "stubborn"])
def test_no_process_of_the_server_outlives_a_command_that_is_killed(run: Callable[..., Run], mode: str) -> None:
    serving = run("--template", "qwen3-vl", mode=mode)
    serving.line("ready after")
    serving.process.send_signal(signal.SIGKILL)
    called = serving.called()
    wait_for(lambda: gone(called["pid"]) and gone(called["worker"]))
    folder = Path(pairs(called["arguments"])["--chat-template"]).parent
    wait_for(lambda: not folder.exists())


@pytest.mark.parametrize("keys", [["sk-1"], ["sk-1", "sk-2"]])
@pytest.mark.parametrize("spelling", ["--api-key", "--api_key", "="])
def test_keys_do_not_stand_among_the_arguments_of_any_process(
    run: Callable[..., Run], keys: list[str], spelling: str
) -> None:
    given = [f"--api-key={key}" for key in keys] if spelling == "=" else [spelling, *keys]
    serving = run(*given, "--max-model-len", "64")
    assert "export VLLM_API_KEY instead" in serving.line("could read --api-key")
    serving.line("ready after")
    called = serving.called()
    family = [serving.process.pid, *(one.pid for one in psutil.Process(serving.process.pid).children(recursive=True))]
    assert called["pid"] in family
    for pid in family:
        assert not any("sk-" in word for word in psutil.Process(pid).cmdline())
    if len(keys) == 1:
        assert (called["environment"]["VLLM_API_KEY"], called["config"]) == ("sk-1", None)
    else:
        text, mode = called["config"]
        assert json.loads(text) == {"api-key": keys}
        assert mode & 0o077 == 0
        assert "VLLM_API_KEY" not in called["environment"]


def test_a_key_that_cannot_be_one_is_left_to_the_command_which_refuses_it_in_one_line() -> None:
    deploy._hide_keys(["--model", "m", "--api-key", "schl\xfcssel"])


def test_keys_of_the_command_line_are_taken_as_vllm_takes_them() -> None:
    assert take_keys(["--a", "--api-key", "k1", "k2\n", "--b", "c"]) == (("k1", "k2"), ("--a", "--b", "c"))
    assert take_keys(["--api_key=k1", "x"]) == (("k1",), ("x",))
    assert take_keys(["--api-key-file", "x"]) == ((), ("--api-key-file", "x"))
    with pytest.raises(ConfigError, match=r"^--api-key has a line break") as caught:
        take_keys(["--api-key", "sk-\nsecret"])
    assert "secret" not in str(caught.value)


def test_several_keys_beside_a_configuration_of_vllm_are_told_where_to_go(
    mistake: Callable[..., str], tmp_path: Path
) -> None:
    folder = str(checkpoint(tmp_path / "m"))
    said = mistake("--model", folder, "--config", "c.yaml", "--api-key", "k1", "k2")
    assert "put the keys into that file, as api-key: [KEY, KEY]" in said


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", None, True), ("::", None, True), ("127.0.0.1", None, False), ("0.0.0.0", "sk-1", False)],
)
def test_an_open_server_on_the_network_is_warned_about(
    host: str,
    key: str | None,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("VLLM_API_KEY", key)
    monkeypatch.setattr(deploy, "supervise", lambda *_: 0)
    deploy.deploy(DeploySettings(str(checkpoint(tmp_path / "m")), host=host, port=8123))
    warning = "anybody who reaches port 8123 may use this server: export VLLM_API_KEY with a key"
    assert (warning in caplog.text) is warned
