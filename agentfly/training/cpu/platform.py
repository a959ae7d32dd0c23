"""verl's platform "cpu": a CPU behind the interface of accelerators, `verl.plugin.platform.PlatformBase`.

One logical accelerator per machine, gloo for collectives, shared memory for weight transfer.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import types
from collections.abc import Iterator
from importlib.metadata import entry_points

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry, get_platform

from agentfly.errors import TrainingError

PLUGIN = "agentfly.training.cpu"
_FORWARDED_TO_ROLLOUT = (
    "OMP_NUM_THREADS",
    "TORCHDYNAMO_DISABLE",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_OMP_THREADS_BIND",
)
_GROUP_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class _CPUDeviceModule(types.ModuleType):
    """`torch.cpu`, plus the members of `torch.cuda` that verl calls on any device module.

    Memory figures are zero because there is no device memory apart from the host's, which verl reports on its own.
    """

    def __getattr__(self, name: str) -> object:
        return getattr(torch.cpu, name)

    def memory_allocated(self, *_: object, **__: object) -> int:
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def synchronize(self, *_: object, **__: object) -> None:
        return None

    empty_cache = ipc_collect = set_device = synchronize
    reset_peak_memory_stats = reset_accumulated_memory_stats = set_per_process_memory_fraction = synchronize

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> str:
        return "cpu"

    def mem_get_info(self, *_: object) -> tuple[int, int]:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page

    def get_device_name(self, *_: object) -> str:
        return "CPU"  # a key of the table in verl/utils/flops_counter.py:25, which MFU is computed from

    def get_rng_state(self, *_: object) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: object) -> None:
        torch.set_rng_state(state)


_DEVICE_MODULE = _CPUDeviceModule("agentfly_torch_cpu")


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    """A CPU in the place of an accelerator."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Return True if auto-detection may pick this platform: only on request.

        A Ray actor without GPU on a machine with GPUs looks just like a machine without any, so the devices that the
        process sees prove nothing (verl/plugin/platform/platform_manager.py:_detect_platform_name).
        """
        return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"

    def current_device(self) -> str:  # type: ignore[override, unused-ignore]
        """Return the device that verl hands to `tensor.to()` (transformer_impl.py:730, 935, 1552); ints mean CUDA."""
        return "cpu"

    def device_count(self) -> int:
        return 1

    def synchronize(self, *_: object, **__: object) -> None:
        """Do nothing: a CPU has no streams, no cache, no device to choose, and no profiler of CUDA's."""

    set_device = set_allocator_settings = empty_cache = profiler_start = profiler_stop = cudart = synchronize

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        """Return the collective backend; in a training worker, also make the worker ready for CPU.

        verl asks for this name just before it creates a worker's process group (verl/utils/distributed.py:89) as
        "cpu:gloo,<device>:<backend>". For device "cpu" torch rejects that string, which names one device twice. verl
        leaves a group alone that exists already, so the group is made here. It is also the last call before the
        worker picks its engine (verl/workers/engine_workers.py:89, 136): the engines are registered here, which
        spares the other processes their import.
        """
        if all(name in os.environ for name in _GROUP_VARIABLES):
            import torch.distributed as dist

            from agentfly.training.cpu.engines import register_engines

            register_engines()
            if not dist.is_initialized():
                dist.init_process_group(
                    "cpu:gloo",
                    rank=int(os.environ["RANK"]),
                    world_size=int(os.environ["WORLD_SIZE"]),
                    init_method=os.environ.get("DIST_INIT_METHOD"),
                )
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def ray_resource_name(self) -> str:
        """Return a logical "GPU": verl counts only GPU and NPU resources (verl/single_controller/ray/base.py:230).

        The run declares it with `ray_kwargs.ray_init.num_gpus=1`.
        """
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        """Return False: weights reach the rollout server through shared memory, bucket by bucket."""
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        """Return the environment of the rollout server, without empty values: vLLM cannot parse an empty KV cache size.

        Its idle threads sleep instead of spinning: on two cores they took the time of the agent loop beside it
        (measured: 11 s of generation a step became 7 s). The trainer keeps spinning threads, which are faster for it.
        """
        forwarded = {name: os.environ[name] for name in _FORWARDED_TO_ROLLOUT if os.environ.get(name)}
        return {"OMP_WAIT_POLICY": "PASSIVE", **forwarded}


def check_platform() -> None:
    """Make sure that verl found this plugin and runs on the CPU platform.

    verl logs a plugin that fails to load at debug level and goes on without it (verl/__init__.py:71); the run would
    end minutes later with an unrelated CUDA error.

    Raises:
        TrainingError: the plugin is not registered, does not load, or another platform is active; with the cause.
    """
    if not any(point.value == PLUGIN for point in entry_points(group="verl.plugins")):
        raise TrainingError(
            f"verl does not know the plugin {PLUGIN}: its entry point is missing. Reinstall: pip install -e ."
        )
    try:
        importlib.import_module(PLUGIN)
        platform = get_platform()
    except Exception as error:
        raise TrainingError(f"verl cannot load the plugin {PLUGIN}: {type(error).__name__}: {error}") from error
    if not isinstance(platform, CPUPlatform):
        raise TrainingError(
            f"verl runs on platform {platform.device_name!r}, not on the CPU. "
            "Set VERL_PLATFORM=cpu before verl is imported, and leave VERL_USE_EXTERNAL_PLUGINS unset."
        )
