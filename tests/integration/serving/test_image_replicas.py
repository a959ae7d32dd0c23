"""`agentfly serve-images --ray`: replicas of a real Ray Serve, one of them killed under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image, ImageStat

from agentfly.process_tree import MARKER, ProcessFamily
from agentfly.vision.base import EditParams
from agentfly.vision.remote import NodeConfig, RemoteEngines, remote_engines
from tests.unit.serving.image_server.running import as_text, plain, wait_for

pytest.importorskip("ray.serve", exc_type=ImportError, reason="needs the extra [ray-serve]")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY_VARIABLE, KEY = "IMAGE_KEY", f"key-{secrets.token_hex(8)}"
REPLICAS, EDITS = 2, 60
# What a person sets on machines that are shared with other work.
PATIENT = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Served:
    """The command, with the address of its replicas and the file with its words."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    family: ProcessFamily
    environment: dict[str, str]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers={"Authorization": f"Bearer {KEY}", **headers}, timeout=60)

    def workers(self) -> set[int]:
        """Return the process ids of the workers of all replicas, once all live; each request reaches one replica."""
        found: set[int] = set()

        def all_live() -> bool:
            nonlocal found
            answer = self.get("/gpu/status")
            if answer.status_code == 200:
                found |= {worker["pid"] for worker in answer.json()["workers"] if worker["pid"] is not None}
            found = {pid for pid in found if psutil.pid_exists(pid)}
            return len(found) >= REPLICAS

        wait_for(all_live, 300)
        return found


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    marker = secrets.token_hex(8)
    options = f"--model-type classical --ray --replicas {REPLICAS} --cpus-per-replica 0.5 --port {port}"
    options += f" --api-key-env {KEY_VARIABLE} --max-body-mb 1"
    command = [sys.executable, "-m", "agentfly.cli", "serve-images", *options.split()]
    # Ray's sockets need a short path (unix(7): 108 bytes).
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        log = Path(folder) / "log.txt"
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {**PATIENT, "RAY_TMPDIR": folder, "HOME": folder, MARKER: marker, KEY_VARIABLE: KEY}
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        running = Served(process, f"http://127.0.0.1:{port}", log, ProcessFamily(marker), environment)
        try:
            wait_for(lambda: process.poll() is not None or "2 of 2 replicas serve" in log.read_text(), 600)
            assert process.poll() is None, log.read_text()
            yield running
        finally:
            running.family.end()


def command_lines(served: Served) -> list[str]:
    """Return those of the command and of all that it has started."""
    found = []
    for pid in served.family.members():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(" ".join(psutil.Process(pid).cmdline()))
    return found


def pool(served: Served) -> RemoteEngines:
    return remote_engines([NodeConfig(served.url, api_key_env=KEY_VARIABLE)], timeout=300)


def test_limits_and_keys_are_those_of_a_server_by_itself(served: Served) -> None:
    body = {"prompt": "Make it darker", "image": as_text(plain())}
    edits = f"{served.url}/v1/images/edits"
    assert httpx.post(edits, json=body, timeout=60).status_code == 401
    wrong = httpx.post(edits, json=body, headers={"Authorization": "Bearer wrong"}, timeout=60)
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "invalid_request_error")
    right = {"Authorization": f"Bearer {KEY}"}
    large = httpx.post(edits, json={**body, "prompt": "x" * 2**21}, headers=right, timeout=60)
    assert large.status_code == 413
    assert httpx.post(edits, json={**body, "promt": "x"}, headers=right, timeout=60).status_code == 400
    assert served.get("/health", Host="evil.example").status_code == 421
    assert served.get("/health").status_code == 200
    answer = httpx.post(edits, json=body, headers=right, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["engine"] == "classical"


def test_a_pool_is_told_of_all_replicas(served: Served) -> None:
    [model] = served.get("/v1/models").json()["data"]
    assert model["slots"] == REPLICAS * 2


def test_the_key_is_on_no_command_line_and_in_no_log(served: Served) -> None:
    lines = command_lines(served)
    assert len(lines) > REPLICAS
    assert not any(KEY in line for line in lines)
    assert KEY not in served.log.read_text()


async def test_a_replica_that_is_killed_under_load_loses_no_edit(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    workers = await asyncio.to_thread(served.workers)
    victim = psutil.Process(min(workers)).parent()
    assert victim is not None
    engines, image = pool(served), Image.effect_noise((512, 512), 64).convert("RGB")
    done = 0

    async def edit(seed: int) -> Image.Image:
        nonlocal done
        result = await engines.editor.edit(image, "Make it darker", EditParams(seed=seed))
        done += 1
        if done == EDITS // 4:
            victim.send_signal(signal.SIGKILL)
        return result

    try:
        results = await asyncio.gather(*(edit(seed) for seed in range(EDITS)))
    finally:
        await engines.close()
    before = ImageStat.Stat(image).mean[0]
    assert len(results) == EDITS
    assert all(ImageStat.Stat(result).mean[0] < before for result in results)
    statistics = engines.get_statistics()
    assert (statistics.answered, statistics.failed, statistics.timed_out) == (EDITS, 0, 0)
    # Serve starts another in its place.
    others = await asyncio.to_thread(served.workers)
    assert min(workers) not in others


def test_a_second_command_joins_the_cluster_and_is_told_of_its_one_address(served: Served) -> None:
    found = re.search(r"--gcs-address=(\S+)", "\n".join(command_lines(served)))
    assert found is not None
    options = "--model-type classical --ray --port 9"
    done = subprocess.run(
        [sys.executable, "-m", "agentfly.cli", "serve-images", *options.split()],
        # The first command's Ray has made a token in the home folder.
        env={**served.environment, "RAY_ADDRESS": found[1], "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    told = f"error: Ray Serve runs on this cluster and listens on {served.url.removeprefix('http://')}"
    assert told in done.stderr, done.stderr
    assert served.get("/health").status_code == 200


def test_an_interrupt_removes_replicas_and_ray(served: Served) -> None:
    # As a terminal does it: to the whole group of the command.
    os.killpg(served.process.pid, signal.SIGINT)
    assert served.process.wait(120) == 0, served.log.read_text()
    wait_for(lambda: not served.family.members(), 60)
    with pytest.raises(httpx.TransportError):
        served.get("/health")
