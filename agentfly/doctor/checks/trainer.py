"""Check that verl finds our platform, and that no environment variable breaks verl or vLLM."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata

from agentfly.doctor.checks.versions import installed_version
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.errors import unknown_name

PLUGIN_NAME, PLUGIN = "agentfly_cpu", "agentfly.training.cpu"
# Platforms of verl 0.9.1 (verl/plugin/platform), and ours.
PLATFORMS = ("amd", "cpu", "huawei", "nvidia")


def plugin(_: Examination) -> Iterator[Finding]:
    """Check that verl discovers our plugin."""
    registered = {(point.name, point.value) for point in metadata.entry_points(group="verl.plugins")}
    yield from check_plugin(installed_version("verl"), registered, os.environ)


def verl_platform(examination: Examination) -> Iterator[Finding]:
    """Check the platform that verl would choose."""
    yield from check_verl_platform(os.environ.get("VERL_PLATFORM", ""), bool(examination.driver.gpus))


def environment(_: Examination) -> Iterator[Finding]:
    """Check the environment variables that are known to break something."""
    yield from check_environment(os.environ)


def check_plugin(
    verl: str | None, registered: Collection[tuple[str, str]], variables: Mapping[str, str]
) -> Iterator[Finding]:
    """Check the plugin. Without it, verl continues silently and fails minutes later with a CUDA error.

    Args:
        verl: its version; None if it is not installed.
        registered: (name, module) of the entry points of verl's plugins.
        variables: of the environment.
    """
    policy = variables.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    if verl is None:
        yield skipped("verl is not installed: no training here", "pip install -e '.[verl]'")
    elif (PLUGIN_NAME, PLUGIN) not in registered:
        yield error(f"verl does not know the plugin {PLUGIN}: its entry point is missing", "pip install --no-deps -e .")
    elif policy != "auto" and PLUGIN_NAME not in policy.split(","):
        yield error(
            f"VERL_USE_EXTERNAL_PLUGINS={policy} keeps verl from loading the plugin {PLUGIN_NAME}",
            "unset VERL_USE_EXTERNAL_PLUGINS",
        )
    else:
        yield ok(f"verl {verl} loads the plugin {PLUGIN_NAME}")


def check_verl_platform(setting: str, has_gpu: bool) -> Iterator[Finding]:
    """Check that an explicit platform exists and fits the machine; without GPU `agentfly` sets its own."""
    name = setting.strip().lower()
    if not name:
        yield ok("VERL_PLATFORM is not set: a run sets what it needs")
    elif name not in PLATFORMS:
        yield error(unknown_name("VERL_PLATFORM", name, PLATFORMS), "unset VERL_PLATFORM")
    elif name == "cpu" and has_gpu:
        yield warning("VERL_PLATFORM=cpu leaves the GPUs idle", "unset VERL_PLATFORM")
    elif name == "nvidia" and not has_gpu:
        yield error("VERL_PLATFORM=nvidia, and no NVIDIA GPU is there", "unset VERL_PLATFORM, or set it to cpu")
    else:
        yield ok(f"VERL_PLATFORM={name}")


def check_environment(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Check the variables; each of these has broken a run once."""
    empty_space = variables.get("VLLM_CPU_KVCACHE_SPACE", "unset") == ""
    if not (empty_space or variables.get("RAY_ADDRESS") or variables.get("PYTHONPATH")):
        yield ok("no variable that is known to break vLLM, Ray or transformers")
    if empty_space:
        yield error(
            "VLLM_CPU_KVCACHE_SPACE is set and empty: vLLM reads it as a number and ends",
            "unset VLLM_CPU_KVCACHE_SPACE",
        )
    if variables.get("RAY_ADDRESS"):
        yield warning(
            "RAY_ADDRESS is set: a run on GPUs joins that cluster instead of starting its own",
            "unset RAY_ADDRESS, unless the cluster is where you want to train",
        )
    if variables.get("PYTHONPATH"):
        yield warning(
            "PYTHONPATH is set: its modules go before the installed versions that were checked", "unset PYTHONPATH"
        )
