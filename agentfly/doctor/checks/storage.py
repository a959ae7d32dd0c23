"""Check that disk, shared memory and memory are large enough. Every threshold says what it is for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning

GIB = 1024**3
SHARED_MEMORY = Path("/dev/shm")
SCRATCH = Path("/tmp")  # where a run keeps Ray's session: sockets need a short path
# A checkpoint holds weights and two moments of Adam, 4 bytes each a parameter, whatever the folder's own type.
_CHECKPOINT_BYTES = 12
# Logs, images of trajectories and checkpoints of a small run.
_SMALL_RUN = 2 * GIB
# Weights of a 3 B policy in bf16 with its tokenizer.
_DOWNLOAD = 8 * GIB
# local_fs_capacity_threshold: above it Ray refuses to spill and to create objects (docs.ray.io, object spilling).
_RAY_FULL = 0.95
# Docker's default of 64 MiB is less than one bucket of weights and vLLM's message queues: SIGBUS.
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
    """Space where `path` is, or will be."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    return Space(usage.free, usage.total)


def disk(examination: Examination) -> Iterator[Finding]:
    """Room for runs, downloads and Ray's session."""
    request = examination.request
    checkpoint = checkpoint_bytes(Path(request.source)) if request.source else None
    yield from check_out(request.out, space_of(request.out), checkpoint)
    yield from check_cache(request.cache, space_of(request.cache))
    if SCRATCH.is_dir():
        yield from check_scratch(SCRATCH, space_of(SCRATCH))


def shared_memory(examination: Examination) -> Iterator[Finding]:
    """Room in /dev/shm, through which Ray's objects and the weights go."""
    if not SHARED_MEMORY.is_dir():
        yield skipped(f"no {SHARED_MEMORY} on this system")
        return
    needed = _SHARED_GPU if examination.driver.gpus else cpu_run_shared_memory()
    yield from check_shared_memory(space_of(SHARED_MEMORY), needed)


def memory(examination: Examination) -> Iterator[Finding]:
    """Memory that is free for this machine's or container's processes."""
    yield from check_memory(available_memory(), bool(examination.driver.gpus))


def check_out(path: Path, space: Space, checkpoint: int | None) -> Iterator[Finding]:
    """Room for at least one checkpoint.

    Args:
        path: folder of the runs.
        space: where it is.
        checkpoint: bytes of a checkpoint of the model; None if no model was given.
    """
    needed = _SMALL_RUN if checkpoint is None else checkpoint
    why = "a small run" if checkpoint is None else "one checkpoint of this model: fp32 weights and Adam's two moments"
    told = f"{_gib(space.free)} free for runs in {path}, {_gib(needed)} is {why}"
    fix = "free some space, or name another disk with --out (agentfly.out of a run)"
    if space.free < needed:
        yield error(told, fix)
    elif checkpoint is not None and space.free < 3 * needed:
        yield warning(told, f"keep one checkpoint (trainer.max_actor_ckpt_to_keep=1), or {fix}")
    else:
        yield ok(told)


def check_cache(path: Path, space: Space) -> Iterator[Finding]:
    """Room for the download of a model."""
    if space.free < _DOWNLOAD:
        told = f"{_gib(space.free)} free for downloads in {path}, less than a 3 B model and its kin take"
        yield warning(told, "set HF_HOME to a folder on a larger disk, or use models in local folders")
    else:
        yield ok(f"{_gib(space.free)} free for downloads in {path}")


def check_scratch(path: Path, space: Space) -> Iterator[Finding]:
    """Ray works in /tmp until its disk is 95 % full."""
    used = 1 - space.free / space.total if space.total else 1.0
    if used > _RAY_FULL:
        told = f"the disk of {path} is {100 * used:.0f} % full: above 95 % Ray refuses to create objects"
        yield error(told, f"free some space on the disk of {path}")
    else:
        yield ok(f"{_gib(space.free)} free for Ray's session in {path}")


def check_shared_memory(space: Space, needed: int) -> Iterator[Finding]:
    """Too little ends in SIGBUS, little makes Ray fall back to the disk."""
    fix = "docker run --shm-size=8g (or --ipc=host); elsewhere: sudo mount -o remount,size=8g /dev/shm"
    if space.free < _SHARED_LEAST:
        told = f"{_mib(space.free)} free in /dev/shm: the weights of a training step and vLLM's queues do not fit"
        yield error(f"{told}, and the engine dies of SIGBUS", fix)
    elif space.free < needed:
        told = f"{_mib(space.free)} free in /dev/shm, and {_mib(needed)} keep Ray's object store off the disk"
        yield warning(told, fix)
    else:
        yield ok(f"{_gib(space.free)} free in /dev/shm")


def check_memory(available: int | None, has_gpu: bool) -> Iterator[Finding]:
    """Training on a CPU holds trainer, engine and Ray in the same memory."""
    if available is None:
        yield skipped("this system does not tell how much memory is free")
    elif not has_gpu and available < _MEMORY_CPU:
        told = f"{_gib(available)} of memory free, and the quickstart's processes take up to 8 GB together"
        yield warning(told, "end other programs, or raise the container's memory limit")
    else:
        yield ok(f"{_gib(available)} of memory free")


def checkpoint_bytes(folder: Path) -> int | None:
    """Bytes of one training checkpoint of a local model; None where there are no weights to measure."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if not weights:
        return None
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = 4 if "32" in str(config.get("dtype", config.get("torch_dtype", ""))) else 2
    return weights // stored * _CHECKPOINT_BYTES


def cpu_run_shared_memory() -> int:
    """What a run on a CPU puts there: Ray's object store and a bucket of weights, from the run's own configuration."""
    import yaml

    file = resources.files("agentfly.training.recipe") / "config" / "device" / "cpu.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    bucket = config["actor_rollout_ref"]["rollout"]["checkpoint_engine"]["update_weights_bucket_megabytes"]
    return int(config["ray_kwargs"]["ray_init"]["object_store_memory"]) + int(bucket) * 1024**2


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be had: what the kernel has, and what the container's limit leaves; None where nobody tells."""
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
