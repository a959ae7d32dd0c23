"""Preload vLLM for a command that runs an engine of its own, on a CPU.

vLLM runs an engine in a second process. Both import the same libraries for as long as the rest of the start takes, and
the second one begins when the first has ended. Here both begin at once: the engine's process is a fork of a preloaded
parent.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from agentfly.agents.llm_backends.vllm_defaults import CPU_ENVIRONMENT, is_cpu_build
from agentfly.training.launch.preload.start import start

MODULES = ("vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner")


@contextmanager
def preloaded_engine() -> Iterator[None]:
    """Import vLLM in a process beside this one, and make the processes that it starts meanwhile forks of that one.

    Does nothing where vLLM is missing or is the build for a GPU: a fork of a process that has touched CUDA cannot use
    it.
    """
    try:
        useful = is_cpu_build()
    except PackageNotFoundError:
        useful = False
    if not useful:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="agentfly-") as folder:
        environment = {**CPU_ENVIRONMENT, **os.environ}
        preloaded = start(environment, Path(folder), MODULES, log=Path(os.devnull))
        if preloaded is None:
            yield
            return
        multiprocessing.set_executable(str(preloaded.program))
        try:
            yield
        finally:
            multiprocessing.set_executable(sys.executable)
            preloaded.server.kill()
            preloaded.server.wait()
