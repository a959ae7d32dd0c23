"""`python -m agentfly.utils.deploy`: serve a checkpoint at an OpenAI-compatible endpoint with tool calls.

Starts `vllm serve` without a shell, with the chat template, its tool parser, and on a CPU the settings that vLLM needs
there. Unknown flags are passed to vLLM. The command waits until the server answers, reports which models it serves,
passes signals on and ends with the server's exit code. The server does not outlive the command.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from agentfly.agents.llm_backends.vllm_defaults import ANY_DEVICE, CPU, CPU_ENVIRONMENT, is_cpu_build
from agentfly.agents.policy_config import FILE_NAME
from agentfly.errors import ConfigError, MissingExtraError, one_line, printable
from agentfly.model_source import find_model, is_local
from agentfly.redaction import checked_key, log_to_stderr, public_url, read_key
from agentfly.serving.hosts import is_loopback
from agentfly.serving.supervisor import Endpoint, supervise
from agentfly.templates import available_templates, load_template
from agentfly.templates.families import CALL_FORMS

logger = logging.getLogger(__name__)

VLLM: Sequence[str] = (sys.executable, "-m", "vllm.entrypoints.cli.main")
# vLLM reads its key there.
KEY_VARIABLE = "VLLM_API_KEY"
# The tag of tool calls as JSON, in whatever way a template writes the JSON.
_HERMES_TAG = "<tool_call>"


@dataclass(frozen=True)
class DeploySettings:
    """The settings of one server.

    Attributes:
        model: checkpoint folder or hub name.
        template: name or path of a chat template; None for the checkpoint's own.
        tp, pp, dp: GPUs that share each layer, stages of layers, copies of the model; None is vLLM's default.
        gpu_memory_utilization: share of each GPU's memory that the engine may take, 0 to 1; None is vLLM's default.
        host, port: address to listen on.
        tool_call_parser: vLLM's name of the parser; None takes that of the template.
        start_timeout: seconds until a start counts as failed.
        flags: further flags of `vllm serve`, passed on as they are.
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

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a number that is out of range and not passed to vLLM, which checks its own."""
        if not 0 < self.start_timeout < math.inf:
            raise ConfigError(f"--start-timeout {self.start_timeout:g}: give a number of seconds above 0")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"--port {self.port}: give a number from 1 to 65535")

    def flag_names(self) -> set[str]:
        """Return the names of the further flags, with dashes, without `no-` and without the part after a dot."""
        found = (flag.partition("=")[0].partition(".")[0] for flag in self.flags if flag.startswith("-"))
        return {name.lstrip("-").replace("_", "-").removeprefix("no-") for name in found}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that clients may send: those of the flags, or else those of the environment."""
        given = take_keys(self.flags)[0]
        return given or tuple((read_key(KEY_VARIABLE) or "").split())

    def endpoint(self) -> Endpoint:
        """Return the endpoint at which the server will answer."""
        key = next(iter(self.keys), None)
        secure = bool(self.flag_names() & {"ssl-certfile", "ssl-keyfile"})
        return Endpoint(self.host, self.port, key, secure)


def take_keys(flags: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keys of `--api-key`, and the flags without them.

    Raises:
        ConfigError: a key has a character that no header can carry.
    """
    keys: list[str] = []
    rest: list[str] = []
    taking = False
    for flag in flags:
        spelling, equals, value = flag.partition("=")
        if spelling.replace("_", "-") == "--api-key":
            keys += [value] if equals else []
            taking = not equals
        elif taking and not flag.startswith("-"):
            keys.append(flag)
        else:
            taking = False
            rest.append(flag)
    return tuple(filter(None, (checked_key(key, "--api-key") for key in keys))), tuple(rest)


def arguments(settings: DeploySettings, template_file: Path | None, *, cpu: bool) -> list[str]:
    """Return the arguments of `vllm serve`: the settings, and our defaults for the rest.

    Args:
        settings: of the server.
        template_file: file with the chat template; None for the checkpoint's own.
        cpu: True if vLLM runs on a CPU.
    """
    wanted: dict[str, object] = {
        "host": settings.host,
        "port": settings.port,
        "tensor_parallel_size": settings.tp,
        "pipeline_parallel_size": settings.pp,
        "data_parallel_size": settings.dp,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
    }
    # With the checkpoint's own, vLLM would fill in what a request leaves out, such as a top_p of 1 that is not sent.
    defaults: dict[str, object] = {"generation_config": "vllm", **ANY_DEVICE, **(CPU if cpu else {})}
    if settings.gpu_memory_utilization is not None:
        # It would be ignored beside a fixed size.
        defaults.pop("kv_cache_memory_bytes", None)
    if template_file is not None:
        # vLLM guesses whether a template takes images where they stand; a wrong guess would gather them in front.
        defaults |= {"chat_template": str(template_file), "chat_template_content_format": "openai"}
    if parser := _tool_call_parser(settings, template_file):
        defaults |= {"enable_auto_tool_choice": True, "tool_call_parser": parser}
    given = settings.flag_names()
    for name, value in defaults.items():
        if name.replace("_", "-") not in given:
            wanted[name] = value
    words: list[str] = []
    for name, value in wanted.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
    # Every user of the machine can read the arguments of a process: keys are handed on in other ways.
    return ["serve", settings.model, *words, *take_keys(settings.flags)[1]]


def _tool_call_parser(settings: DeploySettings, template_file: Path | None) -> str | None:
    if settings.tool_call_parser is not None:
        return settings.tool_call_parser
    text = "" if template_file is None else template_file.read_text(encoding="utf-8")
    if form := next((form for form in CALL_FORMS if form.mark in text), None):
        return form.vllm_parser
    if _HERMES_TAG in text:
        return "hermes"
    logger.warning("no tool calls will be read: give a --template with <tool_call> tags, or --tool-call-parser")
    return None


def deploy(settings: DeploySettings) -> int:
    """Serve until the server ends, and return its exit code.

    Raises:
        ConfigError: the port is taken, the folder is no checkpoint, the model is neither here nor can the hub be
            reached, or a key cannot be handed on.
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
        file = _find_template(settings, Path(folder))
        model = settings.model
        # A file is a checkpoint of another kind (.gguf), and ModelScope another hub.
        elsewhere = Path(model).is_file() or os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true")
        found = model if elsewhere else find_model(model, option="--model_name_or_path", weights=True)
        if found != model and not is_local(model):
            # Asked by name, vLLM would ask the hub again and again for a model in the cache.
            environment["HF_HUB_OFFLINE"] = "1"
        command = [*VLLM, *arguments(settings, file, cpu=cpu), *_hand_on_keys(settings, Path(folder), environment)]
        timeout = None if "headless" in settings.flag_names() else settings.start_timeout
        if timeout is not None and not settings.keys and not is_loopback(settings.host):
            logger.warning(
                "anybody who reaches port %d may use this server: export %s with a key, or give --host 127.0.0.1",
                settings.port,
                KEY_VARIABLE,
            )
        return supervise(command, environment, settings.endpoint(), timeout, Path(folder))


def _hand_on_keys(settings: DeploySettings, folder: Path, environment: dict[str, str]) -> list[str]:
    """Give the keys to vLLM where no other user can read them: one in the environment, several in a private file.

    Args:
        settings: of the server.
        folder: private, for the file.
        environment: of vLLM, which is changed.

    Returns:
        Arguments of vLLM that name the file.
    """
    environment.pop(KEY_VARIABLE, None)
    if not settings.keys:
        return []
    if len(settings.keys) == 1:
        environment[KEY_VARIABLE] = settings.keys[0]
        return []
    if "config" in settings.flag_names():
        raise ConfigError("vLLM takes one --config: put the keys into that file, as api-key: [KEY, KEY]")
    file = folder / "keys.yaml"
    file.write_text(json.dumps({"api-key": settings.keys}), encoding="utf-8")
    return ["--config", str(file)]


def _hide_keys(words: Sequence[str]) -> None:
    """Start this command anew without the keys in its arguments, where every user of the machine can read them.

    Args:
        words: arguments of the command.
    """
    try:
        keys, rest = take_keys(words)
    except ConfigError:
        return  # the command refuses the key, in one line
    if not keys:
        return
    logger.warning(
        "every user of this machine could read --api-key among the arguments: export %s instead; it is handed on by "
        "the environment from here",
        KEY_VARIABLE,
    )
    begin = sys.orig_argv[: len(sys.orig_argv) - len(words)]
    if [*begin, *words] == sys.orig_argv:
        os.execve(sys.executable, [*begin, *rest], {**os.environ, KEY_VARIABLE: " ".join(keys)})


def _find_template(settings: DeploySettings, folder: Path) -> Path | None:
    """Return the file of the chosen template, written to `folder`; else that of a policy of ours, else None.

    The template of a checkpoint of others is left to vLLM, as it may keep no contract of ours.
    """
    if settings.template is not None:
        file = folder / "chat_template.jinja"
        file.write_text(load_template(settings.template), encoding="utf-8")
        return file
    model = Path(settings.model).absolute()
    own = model / "chat_template.jinja"
    ours = own.is_file() and (model / FILE_NAME).is_file() and "chat-template" not in settings.flag_names()
    return own if ours else None


app = typer.Typer(add_completion=False)


@app.command(
    context_settings={
        # No `-h` for help: it would be found in `-dph`, which is vLLM's.
        "allow_extra_args": True,
        "ignore_unknown_options": True,
    },
    epilog="All other flags are passed to `vllm serve`. What a request leaves out of its sampling is neutral (top_p 1, "
    "no top_k, no penalty); `--generation-config auto` takes it from the checkpoint's generation_config.json instead.",
)
def serve_policy(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option("--model_name_or_path", "--model-name-or-path", "--model", help="Checkpoint folder or hub name."),
    ],
    template: Annotated[
        str | None, typer.Option(help=f"Chat template: a path, or one of {', '.join(available_templates())}.")
    ] = None,
    tp: Annotated[int | None, typer.Option("--tp", "-tp", help="GPUs that share each layer.")] = None,
    pp: Annotated[int | None, typer.Option("--pp", "-pp", help="Pipeline stages of layers.")] = None,
    dp: Annotated[int | None, typer.Option("--dp", "-dp", help="Copies of the model.")] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(
            "--gpu_memory_utilization", "--gpu-memory-utilization", help="Share of each GPU's memory, 0 to 1."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = DeploySettings.host,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = DeploySettings.port,
    tool_call_parser: Annotated[
        str | None,
        typer.Option(
            "--tool_call_parser", "--tool-call-parser", help="vLLM's tool parser; default: that of the template."
        ),
    ] = None,
    start_timeout: Annotated[
        float, typer.Option("--start_timeout", "--start-timeout", help="Seconds until a start counts as failed.")
    ] = DeploySettings.start_timeout,
) -> None:
    """Serve a checkpoint at an OpenAI-compatible endpoint with tool calls."""
    given = dict(locals())
    del given["context"]
    try:
        code = deploy(DeploySettings(**given, flags=tuple(context.args)))
    except Exception as fault:
        message = one_line(fault)
        if message is None:
            raise
        typer.echo(printable(public_url(f"deploy: {message}")), err=True)
        code = 2
    raise typer.Exit(code)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code.

    Args:
        arguments: options; None for those of the process.
    """
    log_to_stderr(logging.WARNING, "deploy: %(message)s")
    logging.getLogger("agentfly").setLevel(logging.INFO)
    if arguments is None:
        _hide_keys(sys.argv[1:])
    app(arguments, prog_name="python -m agentfly.utils.deploy")
