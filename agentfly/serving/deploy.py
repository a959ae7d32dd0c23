"""`python -m agentfly.utils.deploy`: serve a checkpoint at an OpenAI-compatible endpoint with tool calls.

Starts `vllm serve` without a shell, with the chat template, its tool parser, and on a CPU the settings that vLLM needs
there. Unknown flags are passed to vLLM. The command waits until the server answers, reports which models it serves,
passes signals on and ends with the server's exit code. The server does not outlive the command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from agentfly.agents.llm_backends.vllm_defaults import ANY_DEVICE, CPU, CPU_ENVIRONMENT, is_cpu_build
from agentfly.agents.policy_config import FILE_NAME
from agentfly.errors import MissingExtraError, one_line
from agentfly.model_source import find_model, is_local
from agentfly.serving.supervisor import Endpoint, supervise
from agentfly.templates import available_templates, load_template

VLLM = (sys.executable, "-m", "vllm.entrypoints.cli.main")
# What each of our templates writes calls in, and what Qwen was taught.
_HERMES_TAG = "<tool_call>"


@dataclass(frozen=True)
class DeploySettings:
    """What is served, and how.

    Attributes:
        model: checkpoint folder or hub name.
        template: name or path of a chat template; None for the checkpoint's own.
        tp, pp, dp: GPUs that share each layer, stages of layers, copies of the model; None is vLLM's default.
        gpu_memory_utilization: share of each GPU's memory that the engine may take.
        host: address to listen on; port: likewise.
        tool_call_parser: vLLM's name of the parser; None takes the one that goes with the template.
        start_timeout: seconds until a start counts as failed.
        flags: further flags of `vllm serve`, as they are.
    """

    model: str
    template: str | None = None
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    gpu_memory_utilization: float | None = None
    host: str = "0.0.0.0"
    port: int = 8000
    tool_call_parser: str | None = None
    start_timeout: float = 900.0
    flags: tuple[str, ...] = ()

    def names(self) -> set[str]:
        """Names of the further flags, in one spelling, without `no-` and without what follows a dot."""
        found = (flag.partition("=")[0].partition(".")[0] for flag in self.flags if flag.startswith("-"))
        return {name.lstrip("-").replace("_", "-").removeprefix("no-") for name in found}

    def endpoint(self) -> Endpoint:
        """Where the server will answer."""
        key = self._value("api-key") or os.environ.get("VLLM_API_KEY")
        secure = bool(self.names() & {"ssl-certfile", "ssl-keyfile"})
        return Endpoint(self.host, self.port, key, secure)

    def _value(self, name: str) -> str | None:
        """What follows a further flag, after a space or an equals sign."""
        for index, flag in enumerate(self.flags):
            spelling, _, value = flag.partition("=")
            if spelling.replace("_", "-") == f"--{name}":
                return value or next(iter(self.flags[index + 1 :]), None)
        return None


def arguments(settings: DeploySettings, template_file: Path | None, *, cpu: bool) -> list[str]:
    """Arguments of `vllm serve`: what was given, and our defaults where nothing was.

    Args:
        settings: what was given.
        template_file: the file that holds the template, if there is one.
        cpu: whether vLLM runs on a CPU.
    """
    wanted: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "tensor_parallel_size": settings.tp,
        "pipeline_parallel_size": settings.pp,
        "data_parallel_size": settings.dp,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
    }
    defaults: dict[str, Any] = {**ANY_DEVICE, **(CPU if cpu else {})}
    if settings.gpu_memory_utilization is not None:
        # It would be ignored beside a fixed size.
        defaults.pop("kv_cache_memory_bytes", None)
    if template_file is not None:
        # vLLM guesses whether a template takes images where they stand; a wrong guess would gather them in front.
        defaults |= {"chat_template": str(template_file), "chat_template_content_format": "openai"}
    if parser := _parser(settings, template_file):
        defaults |= {"enable_auto_tool_choice": True, "tool_call_parser": parser}
    given = settings.names()
    defaults = {name: value for name, value in defaults.items() if name.replace("_", "-") not in given}
    words = [word for name, value in {**wanted, **defaults}.items() for word in _flag(name, value)]
    return ["serve", settings.model, *words, *settings.flags]


def deploy(settings: DeploySettings, *, launcher: Sequence[str] = VLLM) -> int:
    """Serve until the server ends, and return its exit code.

    Args:
        settings: what to serve.
        launcher: the command before `serve`.

    Raises:
        ConfigError: the port is taken, or there is no such model.
        MissingExtraError: vLLM is not installed.
        TemplateError: unknown template.
    """
    try:
        cpu = is_cpu_build()
    except metadata.PackageNotFoundError as fault:
        raise MissingExtraError("agentfly.utils.deploy", "vllm") from fault
    environment = {**(CPU_ENVIRONMENT if cpu else {}), **os.environ}
    if not environment.get("VLLM_CPU_KVCACHE_SPACE"):
        # vLLM reads this as a number as soon as it is set, and fails on an empty one.
        environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
    with tempfile.TemporaryDirectory(prefix="agentfly-deploy-") as folder:
        file = _template_file(settings, Path(folder))
        if _is_offline(settings.model):
            environment["HF_HUB_OFFLINE"] = "1"
        command = [*launcher, *arguments(settings, file, cpu=cpu)]
        timeout = None if "headless" in settings.names() else settings.start_timeout
        return supervise(command, environment, settings.endpoint(), timeout)


def read_settings(argv: Sequence[str] | None = None) -> DeploySettings:
    """The settings of a command line; flags may be written with dashes or underscores."""
    parser = argparse.ArgumentParser(
        prog="python -m agentfly.utils.deploy",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog="All other flags are passed to `vllm serve`.",
        allow_abbrev=False,
    )

    def option(name: str, *others: str, **how: Any) -> None:
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}", *others))
        parser.add_argument(*spellings, **how)

    option("model_name_or_path", "--model", dest="model", required=True, help="checkpoint folder or hub name")
    option("template", help=f"chat template: a path, or one of {', '.join(available_templates())}")
    option("tp", "-tp", type=int, help="GPUs that share each layer")
    option("pp", "-pp", type=int, help="pipeline stages of layers")
    option("dp", "-dp", type=int, help="copies of the model")
    option("gpu_memory_utilization", type=float, help="share of each GPU's memory, 0 to 1")
    option("host", default=DeploySettings.host, help="address to listen on (%(default)s)")
    option("port", type=int, default=DeploySettings.port, help="port to listen on (%(default)s)")
    option("tool_call_parser", help="vLLM's tool parser; default: that of the template")
    option(
        "start_timeout",
        type=float,
        default=DeploySettings.start_timeout,
        help="seconds until a start fails (%(default)s)",
    )
    known, flags = parser.parse_known_args(argv)
    return DeploySettings(**vars(known), flags=tuple(flags))


def main(argv: Sequence[str] | None = None, *, launcher: Sequence[str] = VLLM) -> int:
    """The command; returns its exit code."""
    try:
        return deploy(read_settings(argv), launcher=launcher)
    except Exception as fault:
        if (told := one_line(fault)) is None:
            raise
        print(f"deploy: {told}", file=sys.stderr)
        return 2


def _is_offline(model: str) -> bool:
    """Return whether vLLM must take a model from the cache: asked by name, it would ask the hub again and again.

    Raises:
        ConfigError: the folder is no checkpoint, or the model is neither here nor can the hub be reached.
    """
    # A file is a checkpoint of another kind (.gguf), and ModelScope another hub.
    if Path(model).is_file() or os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true"):
        return False
    return find_model(model, option="--model_name_or_path", weights=True) != model and not is_local(model)


def _template_file(settings: DeploySettings, folder: Path) -> Path | None:
    """The template that was asked for, else that of a policy of ours, which is known to be one of ours."""
    if settings.template is None:
        model = Path(settings.model).absolute()
        own = model / "chat_template.jinja"
        ours = own.is_file() and (model / FILE_NAME).is_file() and "chat-template" not in settings.names()
        return own if ours else None
    file = folder / "chat_template.jinja"
    file.write_text(load_template(settings.template), encoding="utf-8")
    return file


def _parser(settings: DeploySettings, template_file: Path | None) -> str | None:
    if settings.tool_call_parser is not None:
        return settings.tool_call_parser
    if template_file is not None and _HERMES_TAG in template_file.read_text(encoding="utf-8"):
        return "hermes"
    print(
        "deploy: no tool calls will be read: give a --template with <tool_call> tags, or --tool-call-parser",
        file=sys.stderr,
    )
    return None


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, json.dumps(value) if isinstance(value, Mapping) else str(value)]
