"""The checks of the doctor, one file for each part of the machine and for each service.

`CHECKS` has all of them, in the order of the report.
"""

from __future__ import annotations

from agentfly.doctor.checks import agent, leftovers, machine, model, services, storage, versions
from agentfly.doctor.examination import Check

CHECKS: tuple[Check, ...] = (
    Check("requirements", "versions", "the installed distributions", versions.requirements),
    Check("engines", "versions", "who owns the modules vllm and cv2", versions.engines),
    Check("python", "platform", "the version of Python", machine.python),
    Check("system", "platform", "operating system and processor", machine.system),
    Check("gpu", "platform", "the NVIDIA driver (nvidia-smi)", machine.gpu),
    Check("wheels", "platform", "the kind of the torch and vLLM wheels", machine.wheels),
    Check("numa", "platform", "the system library libnuma", machine.numa),
    Check("plugin", "verl", "the entry points of verl's plugins", versions.plugin),
    Check("platform", "verl", "VERL_PLATFORM", versions.verl_platform),
    Check("environment", "verl", "environment variables", versions.environment),
    Check("checkpoint", "model", "the checkpoint's processor and template", model.checkpoint, seconds=90),
    Check("images", "model", "images in the chat template", model.images, needs="checkpoint"),
    Check("prefix", "model", "turns in the chat template", model.prefix, needs="checkpoint"),
    Check("schemas", "model", "tools in the chat template", model.schemas, needs="checkpoint"),
    Check("parser", "model", "tool calls in the chat template", model.parser, needs="checkpoint"),
    Check("pixels", "model", "the processor's sizes of images", model.limits, needs="checkpoint", seconds=30),
    Check("agent", "agent", "the agent and its tools", agent.agent, seconds=90),
    Check("endpoint", "endpoint", "the endpoint's list of models", services.endpoint),
    Check("answer", "endpoint", "the endpoint's answers", services.answer, needs="endpoint", seconds=40),
    Check("token_ids", "endpoint", "the endpoint's token ids", services.token_ids, needs="endpoint", seconds=40),
    Check("nodes", "image nodes", "the image nodes", services.nodes),
    Check("disk", "storage", "free space on disks", storage.disk),
    Check("shared_memory", "storage", "free space in /dev/shm", storage.shared_memory),
    Check("memory", "storage", "free memory", storage.memory),
    Check("keys", "keys", "names of keys in the environment", services.keys),
    Check("runs", "leftovers", "the processes of runs", leftovers.runs),
    Check("segments", "leftovers", "the segments in /dev/shm", leftovers.shared_segments),
    Check("scratch", "leftovers", "temporary folders", leftovers.scratch),
    Check("ports", "leftovers", "the ports of servers", leftovers.ports),
)
