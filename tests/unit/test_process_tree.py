"""Every process of a run is found and ended and its shared memory removed; other programs are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfly.process_tree import MARKER, SHARED_MEMORY, ProcessFamily

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

WAIT = "import sys; print('up', flush=True); sys.stdin.read()"
# Leaves its own session and starts a child there, as daemons do.
FORK = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}], start_new_session=True)"
# Forks, and then takes another title, as Ray's actors do when a method begins.
FORKED = """
import os, sys, setproctitle
setproctitle.setproctitle("ray::Worker.start")
if os.fork():
    setproctitle.setproctitle("ray::Worker.run")
    print("up", flush=True)
sys.stdin.read()
"""
SEGMENTS = """
import sys, multiprocessing as mp
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(name=sys.argv[1], create=True, size=64)
lock = mp.get_context('spawn').Lock()
print(lock._semlock.name.lstrip('/'), flush=True)
sys.stdin.read()
"""


class Spawner:
    """Starter of harmless children that wait on their input; `close` ends them."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[str]] = []

    def __call__(self, code: str, *arguments: str, marker: str | None = None) -> tuple[subprocess.Popen[str], str]:
        environment = {**os.environ, MARKER: marker} if marker else dict(os.environ)
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._children.append(child)
        assert child.stdout is not None
        return child, child.stdout.readline().strip()

    def close(self) -> None:
        for child in self._children:
            child.kill()
            child.communicate()


@pytest.fixture
def spawn() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


@pytest.fixture
def run_id() -> str:
    return f"test-{uuid.uuid4().hex}"


def test_ends_a_marked_child_and_its_daemon(spawn: Spawner, run_id: str) -> None:
    child, line = spawn(FORK, marker=run_id)
    assert line == "up"
    family = ProcessFamily(run_id)
    assert child.pid in family.members()
    assert len(family.members()) == 2
    family.end()
    assert family.members() == []
    assert child.wait(5) == -9


def test_finds_by_session_what_lost_its_environment(spawn: Spawner, run_id: str) -> None:
    child, _ = spawn(WAIT)
    assert ProcessFamily(run_id, session=child.pid).members() == [child.pid]
    assert ProcessFamily(run_id).members() == []


def test_a_fork_is_a_member_but_nothing_that_the_run_needs(spawn: Spawner, run_id: str) -> None:
    child, _ = spawn(FORKED)
    family = ProcessFamily(run_id, session=child.pid)  # a new title overwrites the environment
    assert len(family.members()) == 2
    assert family.titles() == {child.pid: "ray::Worker.run"}
    family.end()


def test_leaves_others_alone(spawn: Spawner, run_id: str) -> None:
    other, _ = spawn(WAIT, marker=f"{run_id}-not-ours")
    plain, _ = spawn(WAIT)
    ProcessFamily(run_id).end()
    assert other.poll() is None
    assert plain.poll() is None


def test_never_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.getpid() not in ProcessFamily("none", session=os.getsid(0)).members()


def test_a_dead_child_is_no_member(spawn: Spawner, run_id: str) -> None:
    child, _ = spawn(WAIT, marker=run_id)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert ProcessFamily(run_id).members() == []


def test_removes_shared_memory_of_killed_members(spawn: Spawner, run_id: str) -> None:
    name = f"agentfly_{uuid.uuid4().hex}"
    family = ProcessFamily(run_id)
    _, semaphore = spawn(SEGMENTS, name, marker=run_id)
    # A semaphore is mapped under another name than it is published under.
    paths = [SHARED_MEMORY / name, SHARED_MEMORY / f"sem.{semaphore}"]
    assert all(path.exists() for path in paths)
    family.end()
    assert not any(path.exists() for path in paths)


def test_keeps_shared_memory_of_others(spawn: Spawner, run_id: str) -> None:
    name = f"agentfly_{uuid.uuid4().hex}"
    family = ProcessFamily(run_id)
    _, semaphore = spawn(SEGMENTS, name)
    spawn(WAIT, marker=run_id)
    family.end()
    paths = [SHARED_MEMORY / name, SHARED_MEMORY / f"sem.{semaphore}"]
    assert all(path.exists() for path in paths)
    for path in paths:
        Path(path).unlink()
