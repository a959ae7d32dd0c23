"""The command: its flags, its end, and that nothing of it is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from typing import get_args

import httpx
import psutil
import pytest
from fastapi import FastAPI

from agentfly.cli import main, serve
from agentfly.errors import ConfigError
from agentfly.serving.hosts import AllowedHosts
from agentfly.serving.http_server import Front, OnRefusal
from agentfly.serving.image_server import ServerSettings, settings
from agentfly.serving.image_server.command import serve as serve_images
from agentfly.serving.image_server.metrics import Metrics
from agentfly.serving.settings import ConnectionLimits
from agentfly.vision import model_runtime
from agentfly.vision.diffusion import settings as diffusion
from tests.unit.serving.image_server.running import as_text, command, plain, read, wait_for

PUPPETS = (
    "python -m agentfly.agents.specialized.image_agent.utils.diffuser_apis --model-type custom "
    "--model-path tests.unit.serving.image_server.custom_engines:puppet --workers 2"
)


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    assert len(found) == 2
    return found


def test_documented_flags() -> None:
    model = ["--model-type", "qwen", "--model-path", "Qwen/Qwen-Image-Edit", "--use-fast"]
    chosen = read(*model, "--gpu-ids", "0", "1", "--host", "0.0.0.0", "--port", "8000")
    assert (chosen.gpu_ids, chosen.use_fast, chosen.host, chosen.port) == ((0, 1), True, "0.0.0.0", 8000)
    assert chosen.engine_options().device == "cuda:0"
    assert chosen.capacity == 8


def test_the_rate_limit_is_an_option() -> None:
    assert read("--model-type", "classical").max_requests_per_minute is None
    assert read("--model-type", "classical", "--max-requests-per-minute", "50").max_requests_per_minute == 50
    with pytest.raises(ConfigError, match=r"--max-requests-per-minute: .* greater than or equal to 1"):
        read("--model-type", "classical", "--max-requests-per-minute", "0")


def test_further_names_of_the_server_are_an_option() -> None:
    chosen = read("--allowed-hosts", "images.example", "*.svc.local", "--model-type", "classical")
    assert chosen.connections.allowed_hosts == ("images.example", "*.svc.local")


def test_defaults_of_the_options_are_those_of_the_settings() -> None:
    assert read("--model-type", "classical") == ServerSettings(model_type="classical")
    assert ServerSettings(model_type="classical").host == "127.0.0.1"


def test_choices_of_the_options_are_those_of_the_settings() -> None:
    pairs = (
        (serve.ModelType, settings.ModelType),
        (serve.DType, model_runtime.DType),
        (serve.Offload, diffusion.Offload),
    )
    assert all(get_args(shown) == get_args(known) for shown, known in pairs)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model-type", "qwen"], "needs --model-path"),
        (["--model-type", "sdxl", "--model-path", "x", "--use-fast"], "are for --model-type qwen"),
        (["--model-type", "classical", "--max-queue", "0"], "--max-queue: "),
        (["--model-type", "qwen", "--model-path", "x", "--lora", "y"], "--lora is that of --use-fast"),
        (["--model-type", "detect", "--model-path", "x", "--compile"], "--compile is of no use to"),
        (["--model-type", "qwen", "--model-path", "x", "--masks", "y"], "--masks is for --model-type detect"),
        (["--model-type", "sdxl", "--model-path", "x", "--area", "4096"], "--area is of no use to"),
        (["--model-type", "classical", "--gpu-ids", "1", "1"], "different numbers"),
        (["--model-type", "classical", "--gpu-ids", "0", "--device", "cpu"], "leave out --device and --workers"),
        (["--model-type", "classical", "--gpu-ids", "0", "--workers", "2"], "leave out --device and --workers"),
        (["--model-type", "classical", "--api-key-env", "NO_SUCH_VARIABLE"], "is not set"),
        (["--model-type", "classical", "--max-body-mb", "inf"], "^--max-body-mb: give a number"),
        (["--model-type", "classical", "--max-body-mb", "nan"], "^--max-body-mb: give a number"),
        (["--model-type", "classical", "--max-body-mb", "0"], "^--max-body-mb: give a number"),
        (["--model-type", "classical", "--max-pixels", "0"], "^--max-pixels: .* greater than or equal to 1$"),
        (["--model-type", "classical", "--max-images", "-1"], "^--max-images: .* greater than or equal to 1$"),
        (["--model-type", "classical", "--shutdown-grace", "inf"], "^--shutdown-grace: .* finite"),
        (["--model-type", "classical", "--shutdown-grace", "nan"], "^--shutdown-grace: "),
        (["--model-type", "classical", "--request-timeout", "nan"], "^--request-timeout: "),
        (["--model-type", "classical", "--allowed-hosts", "http://x"], "^--allowed-hosts: .* without scheme and port"),
    ],
)
def test_wrong_flags_name_the_fix(flags: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read(*flags)


def test_wrong_options_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve-images", "--model-type", "qwen", "--gpu-ids", "0", "1"])
    assert (stopped.value.code, capsys.readouterr().err) == (1, "error: --model-type qwen needs --model-path\n")
    with pytest.raises(SystemExit) as stopped:
        main(["serve-images", "--model-type", "qwn"])
    assert stopped.value.code == 2
    assert "'qwen'" in capsys.readouterr().err


@pytest.mark.slow
def test_without_prometheus_client_the_extra_is_named() -> None:
    program = "import sys; sys.modules['prometheus_client'] = None; from agentfly.cli import main; main()"
    command = [sys.executable, "-c", program, "serve-images", "--model-type", "classical", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the image server needs the optional packages of extra [serve]")


def test_help_shows_each_option_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve-images", "--help"])
    shown = capsys.readouterr().out
    assert re.search(r"--gpu-ids +N\.\.\. +One worker for each", shown)
    assert "--max-requests-per-minute" in shown


def test_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_KEY", "secret-1")
    chosen = read("--model-type", "classical", "--api-key-env", "IMAGE_KEY")
    assert chosen.api_key is not None
    assert chosen.api_key.get_secret_value() == "secret-1"
    assert "secret-1" not in repr(chosen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tests.unit.serving.image_server.custom_engines:broken", "no weights here"),
        ("tests.unit.serving.image_server.custom_engines:missing", "cannot import"),
        ("nothing", "package.module:function"),
    ],
)
def test_engine_that_cannot_be_loaded_ends_the_command_in_one_line(
    path: str, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve-images", "--model-type", "custom", "--model-path", path, "--port", "0", "--log-level", "error"])
    assert caught.value.code == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    assert expected in line


@pytest.mark.slow
def test_sigterm_to_the_whole_group_lets_a_request_finish_and_leaves_nobody() -> None:
    with command(PUPPETS, 2) as (process, url):
        workers = workers_of(process)
        replies: list[int] = []
        body = {"prompt": "sleep 0.8", "image": as_text(plain())}
        thread = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{url}/v1/images/edits", json=body, timeout=30).status_code)
        )
        thread.start()
        wait_for(lambda: any(w["running"] for w in httpx.get(f"{url}/gpu/status").json()["workers"]))
        for victim in (process.pid, *(worker.pid for worker in workers)):
            os.kill(victim, signal.SIGTERM)
        thread.join(20)
        assert replies == [200]
        assert process.wait(20) == 0
        assert psutil.wait_procs(workers, timeout=10)[1] == []


@pytest.mark.slow
def test_workers_do_not_outlive_a_server_that_is_killed() -> None:
    with command(PUPPETS, 2) as (process, url):
        workers = workers_of(process)
        body = {"prompt": "hang 60", "image": as_text(plain())}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/images/edits", json=body, timeout=0.3)
        process.kill()
        assert psutil.wait_procs(workers, timeout=10)[1] == []


async def test_the_command_counts_what_is_refused_before_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Front] = []

    def make(app: FastAPI, host: str, port: int, limits: ConnectionLimits, refused: OnRefusal, **_: object) -> None:
        made.append(Front(app, AllowedHosts(host), limits, refused))
        raise ConfigError("not served")

    monkeypatch.setattr("agentfly.serving.http_server.make_server", make)
    metrics = Metrics()
    monkeypatch.setattr("agentfly.serving.image_server.workers.dispatcher.Metrics", lambda: metrics)
    with pytest.raises(ConfigError, match="not served"):
        serve_images(read("--model-type", "classical"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=made[0]), base_url="http://evil.example") as client:
        assert (await client.post("/v1/detections", json={})).status_code == 421
    counted = {"operation": "detect", "status": "421"}
    assert metrics.registry.get_sample_value("agentfly_image_requests_total", counted) == 1
