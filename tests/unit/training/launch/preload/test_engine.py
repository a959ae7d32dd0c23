"""vLLM preloaded for a command: what it starts is a fork, and nothing is left of it afterwards."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError

import psutil
import pytest

from agentfly.agents.llm_backends.vllm_defaults import CPU_ENVIRONMENT
from agentfly.training.launch.preload import engine
from agentfly.training.launch.preload.engine import preloaded_engine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the preloaded parent is for Linux")


def tell(answers: multiprocessing.SimpleQueue[int]) -> None:
    answers.put(os.getppid())


def parent_of_spawned() -> int:
    """The parent of a process that is spawned now."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=tell, args=(answers,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return answers.get()


@contextmanager
def preloading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engine, "MODULES", ("colorsys",))
    monkeypatch.setattr(engine, "is_cpu_build", lambda: True)
    # As vLLM's processes have them.
    for name, value in CPU_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with preloaded_engine():
        yield


def test_a_process_that_is_started_meanwhile_is_a_fork_and_a_later_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with preloading(monkeypatch):
        parent = parent_of_spawned()
        assert psutil.Process(parent).ppid() == os.getpid()
    assert not psutil.pid_exists(parent)
    assert parent_of_spawned() == os.getpid()


def test_a_fault_of_the_command_ends_the_preloaded_parent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {child.pid for child in psutil.Process().children()}

    def broken() -> None:
        with preloading(monkeypatch):
            assert {child.pid for child in psutil.Process().children()} > before
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.parametrize("missing", [True, False])
def test_without_vllm_for_cpus_nothing_is_started(monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    def is_cpu_build() -> bool:
        if missing:
            raise PackageNotFoundError("vllm")
        return False

    monkeypatch.setattr(engine, "is_cpu_build", is_cpu_build)
    monkeypatch.setattr(engine, "start", lambda *_, **__: pytest.fail("started"))
    with preloaded_engine():
        pass
