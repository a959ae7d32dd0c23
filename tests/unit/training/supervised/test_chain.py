"""From good trajectories to an edited image by the commands: sft, deploy, edit.

Training what `sft` gave, and running what training gave, are parts of the quickstart (tests/e2e/test_quickstart.py).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents.policy_config import PolicyConfig
from agentfly.templates import ChatCodec

pytestmark = pytest.mark.slow

START_SECONDS = 300


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "agentfly.cli", *words],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def serve(policy: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "agentfly.utils.deploy", "--model_name_or_path", str(policy)]
    command += ["--template", "compact-tool", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=file, stderr=file)
    deadline = time.monotonic() + START_SECONDS
    while "deploy: ready" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(log.read_text()[-3000:])
        time.sleep(0.2)
    return process, f"http://127.0.0.1:{port}/v1"


async def test_from_trajectories_to_an_edited_image(
    play: Any, codec: ChatCodec, small_policy: Path, image: Image.Image, tmp_path: Path
) -> None:
    log = await play("brighten", "darken", codec=codec)
    for trajectory, score in zip(log.trajectories, (90.0, 10.0), strict=True):
        trajectory.score = score
    log.write()
    words = [f"model={small_policy}", f"out={tmp_path / 'sft'}", f"data.trajectories={log.path}", "data.min_score=50"]
    words += ["training.steps=80", "training.batch_size=4", "training.learning_rate=5e-3"]
    assert "'below the minimum score': 1" in run("sft", *words)

    policy = tmp_path / "sft" / "policy"
    assert PolicyConfig.read(str(policy)) == PolicyConfig.read(str(small_policy))

    image.save(tmp_path / "image.png")
    process, url = serve(policy, tmp_path / "serve.log")
    try:
        edited = tmp_path / "edited.png"
        where = ["--model", str(policy), "--base-url", url, "-o", str(edited)]
        run("edit", str(tmp_path / "image.png"), "Change it.", *where)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    wanted = log.trajectories[0].final_image
    assert wanted is not None
    assert Image.open(edited).convert("RGB").tobytes() == log.store.get(wanted).convert("RGB").tobytes()
