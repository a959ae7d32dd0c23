"""The preloaded parent: forks are what the interpreter would have been, and nothing outlives what asked for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agentfly.training.launch.preload.start import Preloaded, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the preloaded parent is for Linux")

LIMIT = 60.0
# What a process says of itself; `colorsys` is imported by the server alone.
TELL = """
import json, os, sys
print(json.dumps({
    "arguments": sys.argv, "folder": os.getcwd(), "variable": os.environ.get("GIVEN"), "path": sys.path[0],
    "name": __name__, "preloaded": "colorsys" in sys.modules, "input": sys.stdin.read(),
}))
sys.exit(3)
"""
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.fixture
def preload(tmp_path: Path) -> Iterator[Callable[..., Preloaded]]:
    """Start servers, and end them after the test."""
    started: list[Preloaded] = []

    def begin(*modules: str) -> Preloaded:
        preloaded = start(dict(os.environ), tmp_path, modules or ("colorsys",), log=tmp_path / "log")
        assert preloaded is not None
        started.append(preloaded)
        return preloaded

    yield begin
    for preloaded in started:
        preloaded.server.kill()
        preloaded.server.wait()


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """A script with the name of Ray's, which are the scripts that are forked."""
    return tmp_path / "default_worker.py"


def sleeping(preloaded: Preloaded, worker: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A client, and the fork that it stands for."""
    worker.write_text(SLEEP)
    client = subprocess.Popen([preloaded.program, worker], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    fork = psutil.Process(int(client.stdout.readline()))
    assert fork.ppid() == preloaded.server.pid
    return client, fork


def test_a_fork_is_what_the_interpreter_would_have_been(
    preload: Callable[..., Preloaded], worker: Path, tmp_path: Path
) -> None:
    worker.write_text(TELL)
    told = []
    for python in (preload().program, sys.executable):
        done = subprocess.run(
            [python, "-u", worker, "--one", "two"],
            cwd=worker.parent,
            env={**os.environ, "GIVEN": "7"},
            input="words",
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 3, done.stderr
        told.append(json.loads(done.stdout))
    assert [said.pop("preloaded") for said in told] == [True, False]
    assert told[0] == told[1]
    assert told[0]["arguments"] == [str(worker), "--one", "two"]


def test_a_variable_that_libraries_read_at_import_takes_an_interpreter_of_its_own(
    preload: Callable[..., Preloaded], worker: Path, tmp_path: Path
) -> None:
    worker.write_text(TELL)
    program = preload().program
    environment = {**os.environ, "OMP_WAIT_POLICY": "ACTIVE"}
    done = subprocess.run([program, worker], env=environment, input="", capture_output=True, text=True, timeout=LIMIT)
    assert not json.loads(done.stdout)["preloaded"]
    assert "other OMP_WAIT_POLICY" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_what_imports_set_is_set_in_forks_and_known_from_their_children(
    preload: Callable[..., Preloaded], worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sets_variable.py").write_text("import os\nos.environ['MKL_CHOICE'] = 'imported'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), os.getcwd()]))
    worker.write_text("import os; print(os.getppid(), os.environ['MKL_CHOICE'])")
    preloaded = preload("sets_variable")
    for environment in (dict(os.environ), {**os.environ, "MKL_CHOICE": "imported"}):
        done = subprocess.run(
            [preloaded.program, worker], env=environment, capture_output=True, text=True, timeout=LIMIT
        )
        assert done.stdout.split() == [str(preloaded.server.pid), "imported"], done.stderr


@pytest.mark.slow
def test_processes_of_multiprocessing_are_forks_and_return_what_they_compute(
    preload: Callable[..., Preloaded], tmp_path: Path
) -> None:
    preloaded = preload()
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os\n"
        "def parent(_): return os.getppid()\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_executable({str(preloaded.program)!r})\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(parent, [0])[0])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout.strip() == str(preloaded.server.pid), done.stderr


@pytest.mark.parametrize("broken", ["imports", "ends", "starts_thread"])
def test_without_a_server_the_command_runs_all_the_same(
    preload: Callable[..., Preloaded], worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    (tmp_path / "starts_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), os.getcwd()]))
    preloaded = preload({"imports": "no_such_module", "ends": "colorsys", "starts_thread": "starts_thread"}[broken])
    if broken == "ends":
        preloaded.server.kill()
        preloaded.server.wait()
    worker.write_text(TELL)
    done = subprocess.run([preloaded.program, worker], input="", capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 3, done.stderr
    assert not json.loads(done.stdout)["preloaded"]


def test_signals_reach_the_fork_and_the_client_ends_as_it_does(preload: Callable[..., Preloaded], worker: Path) -> None:
    client, fork = sleeping(preload(), worker)
    client.terminate()
    assert client.wait(LIMIT) == -signal.SIGTERM
    assert psutil.wait_procs([fork], timeout=LIMIT)[0] == [fork]


def test_a_client_that_is_killed_takes_its_fork_with_it(preload: Callable[..., Preloaded], worker: Path) -> None:
    client, fork = sleeping(preload(), worker)
    client.kill()
    fork.wait(LIMIT)


def test_a_fork_does_not_outlive_what_asked_for_it(
    preload: Callable[..., Preloaded], worker: Path, tmp_path: Path
) -> None:
    worker.write_text(SLEEP)
    asks = f"import subprocess; subprocess.run([{str(preload().program)!r}, {str(worker)!r}])"
    asker = subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    fork = psutil.Process(int(asker.stdout.readline()))
    asker.kill()
    fork.wait(LIMIT)


def test_forks_end_with_the_server(preload: Callable[..., Preloaded], worker: Path) -> None:
    preloaded = preload()
    client, fork = sleeping(preloaded, worker)
    preloaded.server.kill()
    fork.wait(LIMIT)
    assert client.wait(LIMIT) != 0


@pytest.mark.slow
def test_forks_do_not_draw_the_same_random_numbers(preload: Callable[..., Preloaded], worker: Path) -> None:
    worker.write_text("import numpy, random; print(numpy.random.random(), random.random())")
    program = preload("numpy").program
    drawn = {subprocess.run([program, worker], capture_output=True, text=True, timeout=LIMIT).stdout for _ in range(2)}
    assert len(drawn) == 2


def test_a_path_that_no_shebang_can_hold_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/a folder/python")
    assert start({}, tmp_path, ("colorsys",), log=tmp_path / "log") is None
