"""Fixtures that several rooms share: a tiny policy of the real class, an engine that runs it, and images."""

from __future__ import annotations

import functools
import gc
import logging
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psutil
import pytest
import pytest_asyncio
import typer.main
import typer.testing
import yaml
from PIL import Image
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from agentfly.agents.llm_backends import AsyncVLLMBackend

FAST = "not slow"
FEWEST_FILES = 40  # for which workers are started
MOST_WORKERS = 4  # the tests of whole runs have many processes each, and gigabytes
# Files that share what takes longer to start than their tests: one worker takes them.
GROUPS = {
    "a browser": re.compile(r"\bbrowser: Browser\b|\.site import\b"),
    "an engine": re.compile(r"\bvllm_backend\b|\bbackend: AsyncVLLMBackend\b"),
}
# Of the fast tests, one worker takes those that import torch or transformers.
HEAVY = re.compile(r"\b(?:tiny_policy|ChatCodec|torch|transformers|parquet)\b")
SLOW_FILE = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.slow\b", re.MULTILINE)

# Workers share the cores: each process of theirs would start threads for all of them, which wait by spinning.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, str(max(1, (os.cpu_count() or 1) // int(workers))))

# `--hypothesis-profile=thorough` looks longer. A time limit for one example would fail on a busy machine.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("quick")


_get_command, _commands = typer.main.get_command, dict[tuple[int, int, int], Any]()


def _command_of(app: typer.Typer) -> Any:
    """Return the program of an application. Typer would make it anew for each command line, in 70 ms."""
    key = id(app), len(app.registered_commands), len(app.registered_groups)
    if key not in _commands:
        _commands[key] = _get_command(app)
    return _commands[key]


def pytest_configure() -> None:
    """Let Ctrl-C reach the tests of it: a shell that starts the suite in the background has it ignored. Save time."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Every HTTP client would load all certificates anew, for 30 ms; no server of the tests has one.
    ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]
    typer.main.get_command = _command_of  # type: ignore[assignment]
    typer.testing._get_command = _command_of  # type: ignore[assignment, attr-defined]
    # Each composition reads 31 files of verl's; libyaml does it in a tenth of the time.
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # type: ignore[misc]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what is imported: there is none, and looking takes a tenth of the time of the suite."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use one worker for each core, and none for a few files or where output is shown as it comes.

    Workers take seconds to start, longer than the tests of most folders. The fast tests get one more.
    """
    files = sum(len([*Path(name).rglob("test_*.py")]) for name in config.args)
    if files < FEWEST_FILES or config.option.capture == "no":
        return 0
    # The fast tests wait for nearly half of their time, for limits that end and programs that start.
    return min((psutil.cpu_count(logical=False) or 1) + (config.option.markexpr == FAST), MOST_WORKERS)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files that are slow as a whole if nobody asked for slow tests: what they import takes seconds."""
    if config.option.markexpr != FAST or collection_path.suffix != ".py":
        return None
    return True if SLOW_FILE.search(_text(collection_path)) else None


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a worker, start with the slow tests: they would end last."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class _Scheduling(LoadFileScheduling):
    """Send tests of one file, or of the files of a group, to the same worker.

    The groups of xdist 3.8 are part of a test's name, which pytest 9 no longer lets it change.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        text = _text(self.config.rootpath / file)
        groups = {**GROUPS, "heavy": HEAVY} if self.config.option.markexpr == FAST else GROUPS
        return next((name for name, words in groups.items() if words.search(text)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Replace the scheduling by files."""
    return _Scheduling(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen2.5-VL of a million parameters with its processor, as a Hugging Face folder."""
    from agentfly.datasets import vocabulary
    from agentfly.training.quickstart.tiny_policy import build_policy

    folder = tmp_path_factory.mktemp("policy")
    build_policy(folder, vocabulary() * 2, seed=0)
    return folder


@pytest.fixture(scope="session")
def warm_policy() -> Path:
    """The policy that comes with the repository: it calls tools, and does not always do the same."""
    from agentfly.training.quickstart.warm_start import SHIPPED

    return SHIPPED


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_backend(tiny_policy: Path) -> AsyncIterator[AsyncVLLMBackend]:
    """The tiny policy on one vLLM engine for all tests: its start takes most of their time."""
    from agentfly.agents.llm_backends import AsyncVLLMBackend, AsyncVLLMConfig

    config = AsyncVLLMConfig(max_model_len=1024, max_num_seqs=8, max_num_batched_tokens=1024, start_timeout=400)
    backend = AsyncVLLMBackend(str(tiny_policy), config, template="compact-tool")
    yield backend
    await backend.close()


@pytest.fixture(autouse=True)
def _package_logger() -> Generator[None]:
    """Restore the logger of the package after each test: commands set its level, and processes of verl its handlers."""
    logger = logging.getLogger("agentfly")
    before = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(before[0])
    logger.handlers, logger.propagate = before[1], before[2]


@pytest.fixture
def image() -> Image.Image:
    """An image of 168 x 168 with structure in every channel."""
    import numpy as np

    ramp = np.linspace(0, 255, 168, dtype=np.uint8)
    channels = [np.tile(ramp, (168, 1)), np.tile(ramp[:, None], (1, 168)), np.full((168, 168), 90, np.uint8)]
    return Image.fromarray(np.stack(channels, axis=-1))
