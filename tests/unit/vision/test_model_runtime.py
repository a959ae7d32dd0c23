"""Models run in their own thread, and their faults say what to do."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from agentfly.errors import ConfigError, MissingExtraError, require
from agentfly.vision.model_runtime import (
    OutOfMemory,
    Worker,
    loading,
    memory_guard,
    resolve_device,
    resolve_dtype,
    short_name,
)


async def test_calls_of_a_worker_never_overlap_and_never_block_the_loop() -> None:
    worker, running, most, threads = Worker("test"), 0, 0, set()
    beats = 0
    release = threading.Event()

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.current_thread())
        release.wait(5)
        running -= 1

    async def beat() -> None:
        nonlocal beats
        for _ in range(20):
            await asyncio.sleep(0)
            beats += 1
        release.set()

    await asyncio.gather(worker.run(work), worker.run(work), worker.run(work), beat())
    assert (most, beats, len(threads)) == (1, 20, 1)
    assert threading.main_thread() not in threads


async def test_a_cancelled_call_that_waits_does_not_run() -> None:
    worker, ran = Worker("test"), list[int]()
    started, release = threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        release.wait(5)

    running = asyncio.create_task(worker.run(first))
    await asyncio.to_thread(started.wait, 5)
    waiting = asyncio.create_task(worker.run(ran.append, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    release.set()
    await running
    await worker.run(ran.append, 2)
    assert ran == [2]


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[diffusion\]'"):
        require("no_such_package_here", "the engine", "diffusion")


def test_a_fault_of_loading_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"cannot load 'x' as a model: first$"), loading("x", "a model"):
        raise OSError("first\nsecond")


def test_running_out_of_memory_is_an_observation_and_other_faults_are_not() -> None:
    torch = pytest.importorskip("torch")
    for fault in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory")):
        with pytest.raises(OutOfMemory, match="m ran out of memory"), memory_guard("m"):
            raise fault
    with pytest.raises(RuntimeError, match="shape"), memory_guard("m"):
        raise RuntimeError("shape mismatch")


def test_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ConfigError, match="no GPU"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (resolve_device("auto"), resolve_device("cuda:1")) == ("cuda", "cuda:1")
    assert (resolve_dtype("auto", "cuda:1"), resolve_dtype("auto", "cpu")) == (torch.bfloat16, torch.float32)
    assert resolve_dtype("float16", "cpu") == torch.float16


def test_names_do_not_carry_paths_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert (short_name(str(tmp_path / "model")), short_name("Qwen/Qwen-Image-Edit")) == (
        "model",
        "Qwen/Qwen-Image-Edit",
    )
