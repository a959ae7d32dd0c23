"""`agentfly generate`: one JSON object on standard output, everything else on standard error."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import typer

from agentfly.cli.options import list_choices, output_option
from agentfly.errors import printable, printable_json
from agentfly.list_options import ANY_VALUE, ListOptionsCommand
from agentfly.redaction import public_url as without_secrets

INTERRUPTED = 130
# As in `systems.refinement.settings`, which takes long to import.
GeneratorName = Literal["openai", "diffusers", "server", "classical"]
PrompterName = Literal["auto", "responses", "chat", "feedback"]
Quality = Literal["auto", "low", "medium", "high"]
Size = Literal["auto", "1024x1024", "1024x1536", "1536x1024"]
Background = Literal["auto", "opaque", "transparent"]
Format = Literal["png", "jpeg", "webp"]


class GenerateCommand(ListOptionsCommand):
    """A command whose `--refs` takes several images, up to the next option."""

    list_options = MappingProxyType({"--refs": ANY_VALUE})


def generate(
    prompt: Annotated[str, typer.Argument(help="Description of the image.")],
    refs: Annotated[list[str] | None, typer.Option(metavar="FILE|URL...", help="Reference images.")] = None,
    quality: Annotated[
        Quality | None, typer.Option(metavar="QUALITY", help=f"{list_choices(Quality)}; default: high.")
    ] = None,
    size: Annotated[
        Size | None, typer.Option(metavar="SIZE", help=f"{list_choices(Size)}; default: 1024x1024.")
    ] = None,
    background: Annotated[
        Background | None,
        typer.Option(
            metavar="HOW", help=f"{list_choices(Background)}; default: transparent, if the format supports it."
        ),
    ] = None,
    format: Annotated[
        Format | None, typer.Option(metavar="FORMAT", help=f"{list_choices(Format)}; default: png.")
    ] = None,
    max_iterations: Annotated[int | None, typer.Option(help="Most images to make; default: 5.")] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Score that ends the loop, 0 to 100; default: 90.")
    ] = None,
    rubric: Annotated[
        str | None, typer.Option(help="Criteria for judge and prompter: a name (jewelry) or a YAML file.")
    ] = None,
    generator: Annotated[
        GeneratorName | None,
        typer.Option(metavar="NAME", help=f"Maker of the images: {list_choices(GeneratorName)}; default: openai."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model of the Responses API; also for judge and prompter unless they have their own."),
    ] = None,
    image_model: Annotated[str | None, typer.Option(help="Model of the image_generation tool.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint up to /v1, for generator, judge and prompter.")
    ] = None,
    server_url: Annotated[str | None, typer.Option(help="Image server, for --generator server.")] = None,
    diffusers_model: Annotated[
        str | None, typer.Option(help="Model folder or hub name, for --generator diffusers.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device of that pipeline: auto, cpu, cuda, cuda:1.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much diffusers changes the last image, 0 to 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first image, counted up for the next ones.")] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(help="Name of an evaluator, or JSON with its settings; default: a judge by the model."),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model of the judge; default: --model.")] = None,
    judge_base_url: Annotated[str | None, typer.Option(help="Endpoint of the judge; default: --base-url.")] = None,
    prompter: Annotated[
        PrompterName | None,
        typer.Option(metavar="NAME", help=f"Refiner of the prompts: {list_choices(PrompterName)}; default: auto."),
    ] = None,
    prompter_model: Annotated[str | None, typer.Option(help="Model of the prompter; default: --model.")] = None,
    prompter_base_url: Annotated[
        str | None, typer.Option(help="Endpoint of the prompter; default: --base-url.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a request may take; default: 300.")] = None,
    retries: Annotated[int | None, typer.Option(help="Retries of a request; default: 2.")] = None,
    upload: Annotated[
        str | None, typer.Option(metavar="URL", help="Upload the best image there, e.g. s3://bucket/folder/.")
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Web address of the place of --upload, e.g. https://images.example.org/cars/."
        ),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask for your own score and comment after each image, on the terminal.")
    ] = False,
    output_dir: Annotated[
        Path | None, output_option(help="Folder for the images; default: a new one in outputs/generate.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any of these settings.")] = None,
    env: Annotated[Path | None, typer.Option(help="Settings file; default: .env, if there is one.")] = None,
    allow_private_hosts: Annotated[
        bool, typer.Option("--allow-private-hosts", help="Also fetch references from private addresses.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """Make an image, judge it, refine the prompt, and repeat until the judge is satisfied; prints one JSON object.

    Options that are not given are taken from --config, then from the environment. Exit code 0: there is an image. 1: a
    fault, no image, or a failed upload. 2: invalid options.
    """
    options = dict(locals())
    from agentfly.cli.ask import ask_on_terminal
    from agentfly.systems.refinement.command import GenerateRequest, generate_image, read_settings
    from agentfly.viewer.command import view_command

    logging.getLogger("agentfly").setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in ("prompt", "refs", "ask", "output_dir", "config", "env", "allow_private_hosts", "verbose"):
        del options[name]
    settings = read_settings(options, config, env)
    person = ask_on_terminal if ask else None
    request = GenerateRequest(prompt, refs or (), output_dir, allow_private_hosts, person)
    request.check(settings)
    try:
        # Libraries that print must not spoil the one object.
        with redirect_stdout(sys.stderr):
            content = asyncio.run(generate_image(request, settings))
    except KeyboardInterrupt:
        typer.echo("interrupted: the images so far are on disk", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(printable_json(json.dumps(content, indent=2, ensure_ascii=False)))
    folder = Path(next(filter(None, content["image_history"]), "")).parent
    if folder.name:
        typer.echo(printable(view_command(folder)), err=True)
    for fault in (content["error"], content.get("upload_error")):
        if fault:
            typer.echo(printable(without_secrets(f"error: {fault}")), err=True)
    if not content["best_image_url"] or "upload_error" in content:
        raise typer.Exit(1)
