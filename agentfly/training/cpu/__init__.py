"""verl on a machine without GPU: the same trainer, engines and rollout server, on CPU tensors.

verl imports this package in each of its processes (entry point group `verl.plugins`). Importing it only registers
the platform "cpu"; nothing changes until a run asks for it with `VERL_PLATFORM=cpu`, so a machine with GPUs is safe.

Line numbers in these files refer to verl 0.9.1 and vLLM 0.24.0, the versions that `requirements-cpu.txt` pins.
"""

from __future__ import annotations

from agentfly.training.cpu.platform import CPUPlatform, check_platform

__all__ = ["CPUPlatform", "check_platform"]
