"""`agentfly serve-images` and `agentfly serve-evaluator`."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import typer

from agentfly.cli.options import list_choices, output_option
from agentfly.errors import AgentFlyError, ConfigError
from agentfly.list_options import ANY_VALUE, ListOptionsCommand

# As in `image_server.settings`, `vision.model_runtime` and `vision.diffusion.settings`, which take long to import.
ModelType = Literal["qwen", "generic", "inpaint", "detect", "sdxl", "classical", "custom"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]
LogLevel = Literal["debug", "info", "warning", "error"]


class ServeImagesCommand(ListOptionsCommand):
    """A command whose `--gpu-ids` takes several numbers, and `--allowed-hosts` several names."""

    list_options = MappingProxyType({"--gpu-ids": re.compile(r"\d+"), "--allowed-hosts": ANY_VALUE})


def serve_images(
    model_type: Annotated[ModelType, typer.Option(metavar="TYPE", help=f"Engine: {list_choices(ModelType)}.")],
    model_path: Annotated[
        str, typer.Option(help="Folder or hub name; for custom, package.module:function.", show_default=False)
    ] = "",
    masks: Annotated[
        str | None, typer.Option(metavar="MODEL", help="SAM model for the outlines of detected objects (detect).")
    ] = None,
    gpu_ids: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="One worker for each of these GPUs.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device of the workers without --gpu-ids: cpu, or cuda for the first GPU.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Workers without --gpu-ids.")] = 1,
    worker_slots: Annotated[
        int, typer.Option(help="Requests that a worker holds at once; 0 leaves it to the model type.")
    ] = 0,
    use_fast: Annotated[bool, typer.Option("--use-fast", help="Lightning LoRA, 8 steps (qwen).")] = False,
    use_ultra_fast: Annotated[bool, typer.Option("--use-ultra-fast", help="Lightning LoRA, 4 steps (qwen).")] = False,
    lora: Annotated[str | None, typer.Option(help="Folder or file of that LoRA, instead of the hub's.")] = None,
    dtype: Annotated[
        DType,
        typer.Option(
            metavar="TYPE", help=f"Precision of the weights: {list_choices(DType)}; auto is bfloat16 on a GPU."
        ),
    ] = "auto",
    offload: Annotated[
        Offload, typer.Option(metavar="HOW", help=f"Move weights off the GPU between uses: {list_choices(Offload)}.")
    ] = "none",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser; the first request takes minutes.")
    ] = False,
    area: Annotated[
        int | None, typer.Option(help="Pixels that the model works at; default: the model's own choice.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the key that clients must send.")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Most requests that wait; further ones get 503.")] = 64,
    max_requests_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Most requests of one client in 60 s; further ones get 429.")
    ] = None,
    request_timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 600.0,
    shutdown_grace: Annotated[float, typer.Option(help="Seconds that requests have to finish after SIGTERM.")] = 30.0,
    max_body_mb: Annotated[float, typer.Option(help="Largest request, in MiB.")] = 64.0,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of an image.")] = 16_000_000,
    max_images: Annotated[int, typer.Option(help="Most images of a request.")] = 8,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Let requests name images by public http(s) address.")
    ] = False,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Further names by which clients address this server; *.example for all below one, * for any. On a "
            "loopback address only its own names and IP addresses will do without it; on others any name will, but web "
            "pages are let in only from these.",
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Serve by replicas of Ray Serve, on the cluster of RAY_ADDRESS or a Ray of this machine."
        ),
    ] = False,
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="MIN[:MAX]", help="With --ray: replicas; between MIN and MAX as many as the requests need. [1]"
        ),
    ] = None,
    gpus_per_replica: Annotated[
        float | None, typer.Option(metavar="N", help="With --ray: GPUs of a replica, or a part of one. [0]")
    ] = None,
    cpus_per_replica: Annotated[
        float | None, typer.Option(metavar="N", help="With --ray: CPUs of a replica. [1]")
    ] = None,
    target_requests: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="With --ray: requests a replica to which their number is adjusted; default: its slots."
        ),
    ] = None,
    start_timeout: Annotated[
        float | None, typer.Option(metavar="S", help="With --ray: seconds until MIN replicas have to serve. [1800]")
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option(metavar="LEVEL", help=f"Least severe messages to log: {list_choices(LogLevel)}.")
    ] = "info",
) -> None:
    """Serve an image model over HTTP, OpenAI-compatible."""
    options = dict(locals())
    from agentfly.serving.image_server.command import read_settings, serve
    from agentfly.serving.image_server.ray_settings import check_fits, read_replicas

    logging.getLogger("agentfly").setLevel(options.pop("log_level").upper())
    ours = ("replicas", "gpus_per_replica", "cpus_per_replica", "target_requests", "start_timeout")
    cluster = read_replicas(options.pop("ray"), {name: options.pop(name) for name in ours})
    named = ("device", "api_key_env", "max_body_mb", "max_pixels", "max_images", "allow_urls")
    own = {name: options.pop(name) for name in named}
    own["allowed_hosts"] = options.pop("allowed_hosts") or ()
    if cluster is None:
        serve(read_settings({**options, "gpu_ids": gpu_ids or ()}, **own), log_level)
        return
    from agentfly.serving.image_server.ray_serve import serve_on_ray

    own["device"] = device or ("cuda" if cluster.gpus_per_replica and not gpu_ids else None)
    settings = read_settings({**options, "gpu_ids": gpu_ids or (), "replicas": cluster.replicas[1]}, **own)
    check_fits(settings, cluster)
    serve_on_ray(settings, cluster, api_key_env)


class ServeEvaluatorCommand(ListOptionsCommand):
    """A command whose `--allowed-hosts` and `--requirements` take several values."""

    list_options = MappingProxyType({"--allowed-hosts": ANY_VALUE, "--requirements": ANY_VALUE})


def serve_evaluator(
    evaluator: Annotated[
        str,
        typer.Argument(
            help="Evaluator, as for agentfly eval: editscore:MODEL,adapter=LORA, a YAML file, JSON, or module:name."
        ),
    ],
    venv: Annotated[
        Path | None,
        output_option(help="Environment of its own, in this folder; it is made with what the evaluator needs, once."),
    ] = None,
    requirements: Annotated[
        list[str] | None,
        typer.Option(metavar="PACKAGE...", help="With --venv: further packages, as pip takes them."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8100,
    in_flight: Annotated[
        int | None, typer.Option(help="Most evaluations at the same time; default: 4, or two batches of a learned one.")
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Further names of this server, as for agentfly serve-images."),
    ] = None,
) -> None:
    """Serve an evaluator over HTTP, for training in another process, and for other trainers."""
    from agentfly.evaluation.scoring import read_specs

    [(_, spec), *others] = read_specs([evaluator]).items()
    if others or "reward" in spec:
        raise ConfigError("a server has one evaluator: name one, or a composite of several")
    spec.pop("name", None)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("agentfly").setLevel(logging.INFO)
    if venv is None:
        if requirements:
            raise ConfigError("--requirements is about an environment of its own: add --venv FOLDER, or leave it out")
        from agentfly.serving.evaluator_server import serve

        sys.path.insert(0, os.getcwd())
        if not serve(spec, host, port, in_flight, allowed_hosts or ()):
            raise AgentFlyError(
                f"the server could not listen on {host}:{port} (the line above says why): give another --port or --host"
            )
        return
    from agentfly.serving.evaluator_environment import make_environment, run_in

    python = make_environment(venv.absolute(), str(spec.get("evaluator")), requirements or ())
    words = ["--evaluator", json.dumps(spec), "--host", host, "--port", str(port)]
    words += [] if in_flight is None else ["--in-flight", str(in_flight)]
    run_in(python, [*words, *(["--allowed-hosts", *allowed_hosts] if allowed_hosts else [])])
