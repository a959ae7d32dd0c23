"""Check that disk, shared memory and memory are large enough."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.training.recipe.memory import GIB
from agentfly.training.recipe.policy_sizes import count_parameters
from agentfly.training.recipe.readiness import STORED

SHARED_MEMORY = Path("/dev/shm")
SCRATCH = Path("/tmp")  # place of Ray's session, because sockets need a short path
# Logs, images of trajectories and checkpoints of a small run.
_SMALL_RUN = 2 * GIB
# Weights of a 3 B policy in bf16 with its tokenizer.
_DOWNLOAD = 8 * GIB
# local_fs_capacity_threshold: above it Ray refuses to spill and to create objects (docs.ray.io, object spilling).
_RAY_FULL = 0.95
# Docker's default of 64 MiB holds no bucket of weights with vLLM's message queues; the engine dies of SIGBUS.
_SHARED_LEAST = 128 * 1024**2
# On a GPU machine: Ray's object store, NCCL's buffers and vLLM's message queues.
_SHARED_GPU = 8 * GIB
# Peak of the quickstart's processes together on a CPU: 7 to 8 GB, measured.
_MEMORY_CPU = 9 * GIB


@dataclass(frozen=True)
class Space:
    """Bytes of a file system."""

    free: int
    total: int


def space_of(path: Path) -> Space:
    """Return the space of the file system where `path` is or will be."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    return Space(usage.free, usage.total)


def disk(examination: Examination) -> Iterator[Finding]:
    """Check the room for runs, downloads and Ray's session."""
    request = examination.request
    checkpoint = checkpoint_bytes(Path(request.source)) if request.source else None
    yield from check_out(request.out, space_of(request.out), checkpoint)
    yield from check_cache(request.cache, space_of(request.cache))
    if SCRATCH.is_dir():
        yield from check_scratch(SCRATCH, space_of(SCRATCH))


def shared_memory(examination: Examination) -> Iterator[Finding]:
    """Check the room in /dev/shm, which holds Ray's objects and weights on their way to the engine."""
    if not SHARED_MEMORY.is_dir():
        yield skipped(f"no {SHARED_MEMORY} on this system")
        return
    needed = _SHARED_GPU if examination.driver.gpus else cpu_run_shared_memory()
    yield from check_shared_memory(space_of(SHARED_MEMORY), needed)


def memory(examination: Examination) -> Iterator[Finding]:
    """Check the free memory of this machine or container."""
    yield from check_memory(available_memory(), bool(examination.driver.gpus))


def check_out(path: Path, space: Space, checkpoint: int | None) -> Iterator[Finding]:
    """Check the room for at least one checkpoint.

    Args:
        path: folder of the runs.
        space: of its file system.
        checkpoint: bytes of a checkpoint of the model; None where they are not known.
    """
    needed = _SMALL_RUN if checkpoint is None else checkpoint
    why = "a small run" if checkpoint is None else "one checkpoint of this model: fp32 weights and Adam's two moments"
    line = f"{_gib(space.free)} free for runs in {path}, {_gib(needed)} is {why}"
    fix = "free some space, or name another disk with --out (agentfly.out of a run)"
    if space.free < needed:
        yield error(line, fix)
    elif checkpoint is not None and space.free < 3 * needed:
        yield warning(line, f"keep one checkpoint (trainer.max_actor_ckpt_to_keep=1), or {fix}")
    else:
        yield ok(line)


def check_cache(path: Path, space: Space) -> Iterator[Finding]:
    """Check the room for the download of a model."""
    if space.free < _DOWNLOAD:
        line = f"{_gib(space.free)} free for downloads in {path}, less than a 3 B model and its kin take"
        yield warning(line, "set HF_HOME to a folder on a larger disk, or use models in local folders")
    else:
        yield ok(f"{_gib(space.free)} free for downloads in {path}")


def check_scratch(path: Path, space: Space) -> Iterator[Finding]:
    """Check the disk of /tmp: Ray creates no objects on one that is more than 95 % full."""
    used = 1 - space.free / space.total if space.total else 1.0
    if used > _RAY_FULL:
        line = f"the disk of {path} is {100 * used:.0f} % full: above 95 % Ray refuses to create objects"
        yield error(line, f"free some space on the disk of {path}")
    else:
        yield ok(f"{_gib(space.free)} free for Ray's session in {path}")


def check_shared_memory(space: Space, needed: int) -> Iterator[Finding]:
    """Check /dev/shm: far too little space ends in SIGBUS, little makes Ray spill to the disk."""
    fix = "docker run --shm-size=8g (or --ipc=host); elsewhere: sudo mount -o remount,size=8g /dev/shm"
    if space.free < _SHARED_LEAST:
        line = f"{_mib(space.free)} free in /dev/shm: the weights of a training step and vLLM's queues do not fit"
        yield error(f"{line}, and the engine dies of SIGBUS", fix)
    elif space.free < needed:
        line = f"{_mib(space.free)} free in /dev/shm, and {_mib(needed)} keep Ray's object store off the disk"
        yield warning(line, fix)
    else:
        yield ok(f"{_gib(space.free)} free in /dev/shm")


def check_memory(available: int | None, has_gpu: bool) -> Iterator[Finding]:
    """Check the memory, which trainer, engine and Ray share on a machine without GPU."""
    if available is None:
        yield skipped("this system does not tell how much memory is free")
    elif not has_gpu and available < _MEMORY_CPU:
        line = f"{_gib(available)} of memory free, and the quickstart's processes take up to 8 GB together"
        yield warning(line, "end other programs, or raise the container's memory limit")
    else:
        yield ok(f"{_gib(available)} of memory free")


def checkpoint_bytes(folder: Path) -> int | None:
    """Return the bytes of one training checkpoint of a local model, None where its weights are absent or broken."""
    try:
        parameters = count_parameters(folder)
    except (ValueError, KeyError, OverflowError, MemoryError):
        # A file of another kind, such as a pointer of Git LFS, claims a header of any length.
        return None
    return None if parameters is None else parameters * (STORED["model"] + STORED["optimizer"])


def cpu_run_shared_memory() -> int:
    """Return the bytes of /dev/shm that a run on a CPU is configured for: Ray's objects and a bucket of weights."""
    import yaml

    file = resources.files("agentfly.training.recipe") / "config" / "device" / "cpu.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    bucket = config["actor_rollout_ref"]["rollout"]["checkpoint_engine"]["update_weights_bucket_megabytes"]
    return int(config["ray_kwargs"]["ray_init"]["object_store_memory"]) + int(bucket) * 1024**2


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the available bytes within the container's limit, None on a system that does not report them."""
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        kernel = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        limit, used = ((cgroup / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return kernel if limit == "max" else min(kernel, max(0, int(limit) - int(used)))
    except OSError:
        return kernel


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _mib(size: int) -> str:
    return f"{size / 1024**2:.0f} MiB"
