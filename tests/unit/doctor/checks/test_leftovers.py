"""What runs left behind, in a made-up /proc and in this machine's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from agentfly.doctor.checks import leftovers
from agentfly.doctor.checks.leftovers import Process
from agentfly.process_tree import MARKER
from tests.unit.doctor.judged import judged, levels, only

DRIVER = b"python\0-m\0agentfly.training.verl.driver\0"


def process(pid: int, run: str = "", command: bytes = b"ray\0", environment: bytes = b"") -> Process:
    return Process(pid, run, command, environment)


def test_a_run_without_its_driver_is_left_over() -> None:
    assert only(leftovers.check_runs([process(1)])) == ("ok", "no processes of a run")
    going = [process(1, "a", DRIVER), process(2, "a")]
    over = [process(3, "b"), process(4, "b")]
    found = list(leftovers.check_runs([*over, *going]))
    assert judged(found) == [
        ("ok", "run a is going on, 2 processes"),
        ("warning", "run b is over, and 2 of its processes are not"),
    ]
    assert found[1].fix == "kill -9 3 4"


def test_processes_are_known_by_their_marker() -> None:
    run = f"doctor-{uuid.uuid4().hex}"
    command = [sys.executable, "-c", "print(1, flush=True); input()"]
    with subprocess.Popen(
        command, env={**os.environ, MARKER: run}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = [one for one in leftovers.processes() if one.run == run]
        child.kill()
    assert [one.pid for one in found] == [child.pid]
    assert b"print(1" in found[0].command


def test_orphaned_segments_are_ours_of_our_kinds_and_unused(tmp_path: Path) -> None:
    for name in ("verl_weights_1", "psm_1", "psm_used", "somebodys_data"):
        (tmp_path / name).write_bytes(b"12345")
    used = {(tmp_path / "psm_used").stat().st_ino}
    found = leftovers.orphaned_segments(tmp_path, used, os.getuid())
    assert {path.name: size for path, size in found.items()} == {"psm_1": 5, "verl_weights_1": 5}
    assert leftovers.orphaned_segments(tmp_path, used, os.getuid() + 1) == {}
    assert only(leftovers.check_segments(found))[0] == "warning"
    assert only(leftovers.check_segments({}))[0] == "ok"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_a_mapped_segment_is_in_use() -> None:
    segment = shared_memory.SharedMemory(create=True, size=4096)
    try:
        inode = (Path("/dev/shm") / segment.name.lstrip("/")).stat().st_ino
        assert inode in leftovers.inodes_in_use()
    finally:
        segment.close()
        segment.unlink()


def test_folders_that_no_process_names(tmp_path: Path) -> None:
    for name in ("agentfly-abcd1234", "agentfly-deploy-abcd1234", "agentfly-images-abcd1234", "other"):
        (tmp_path / name).mkdir()
    now = time.time() + 3600
    running = [process(1, command=b"vllm\0--chat-template\0/tmp/agentfly-deploy-abcd1234/t.jinja")]
    found = leftovers.abandoned_folders(tmp_path, running, now)
    assert [path.name for path in found] == ["agentfly-abcd1234"]
    named = [process(2, environment=b"TMPDIR=/tmp/agentfly-abcd1234\0"), *running]
    assert leftovers.abandoned_folders(tmp_path, named, now) == []
    # A moment old: its process may be about to start.
    assert leftovers.abandoned_folders(tmp_path, [], time.time()) == []
    many = [Path(f"/tmp/{n}") for n in range(10)]
    assert next(iter(leftovers.check_scratch(many))).fix.endswith("then look again, 2 more are there")
    assert levels(leftovers.check_scratch([])) == ["ok"]


def test_ports() -> None:
    assert only(leftovers.check_ports(lambda _: False, set()))[0] == "ok"
    level, message = only(leftovers.check_ports(lambda port: port == 8000, set()))
    assert (level, "port 8000 is taken" in message) == ("warning", True)
    # The endpoint that was asked about is expected to be there.
    assert only(leftovers.check_ports(lambda port: port == 8000, {8000}))[0] == "ok"


def test_a_listening_port_is_taken() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.listen()
        assert leftovers.is_taken(port)
    assert not leftovers.is_taken(port)
