"""`agentfly data`: check a data set, convert it to the files that training reads, and pair chains of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentfly.cli.options import output_option
from agentfly.errors import ConfigError, printable, printable_json
from agentfly.files import parse_yaml
from agentfly.redaction import public_url

data = typer.Typer(no_args_is_help=True, help="Check data sets, and convert them for training.")

# Most problems on the screen; --json prints all of them.
_SHOWN = 40

Source = Annotated[str, typer.Argument(help="Name of a data set, or path of a .jsonl, .parquet or folder.")]
Split = Annotated[str | None, typer.Option(help="Split; default: the first one of the data set.")]
Limit = Annotated[int | None, typer.Option(help="Most rows to read.")]
Seed = Annotated[int, typer.Option(help="Seed of generated data, such as stickers.")]
Root = Annotated[
    Path | None, typer.Option(help="Folder with the files of a named data set; without it they come from the hub.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the source, NAME=VALUE, e.g. --set language=en.")
]


class Images(StrEnum):
    """Place of the images that `convert` writes."""

    bytes = "bytes"
    paths = "paths"


@data.command()
def check(
    source: Source,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    root: Root = None,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check every row and say which ones are wrong and why. Exit code 1 if any is."""
    from agentfly.datasets import check_rows, task_rows

    report = check_rows(task_rows(source, split=split, limit=limit, seed=seed, root=root, **_options(set_)))
    if as_json:
        typer.echo(printable_json(json.dumps(report.to_json(), ensure_ascii=False, indent=2)))
    else:
        console = Console()
        title = Text(printable(source), "table.title")
        table = Table("task type", "tasks", "with target", "with mask", "faulty", title=title)
        for name, summary in sorted(report.by_type.items()):
            counts = (summary.tasks, summary.with_target, summary.with_mask, summary.faulty)
            table.add_row(Text(printable(name)), *map(str, counts))
        console.print(table)
        for form, count in sorted(report.masks.items()):
            console.print(
                f"{count} mask{'s' if count > 1 else ''} read as: {form}", highlight=False, markup=False, soft_wrap=True
            )
        for problem in report.problems[:_SHOWN]:
            line = printable(public_url(f"{problem.where}: {problem.reason}"))
            console.print(Text(line), style="red", soft_wrap=True)
        if len(report.problems) > _SHOWN:
            console.print(f"and {len(report.problems) - _SHOWN} more; --json lists all")
        verdict = f"{len(report.problems)} problems" if report.problems else "no problems" if report.rows else "no rows"
        console.print(f"{report.rows} rows, {verdict}", highlight=False)
    if not report.ok:
        raise typer.Exit(1)


@data.command()
def convert(
    source: Source,
    out: Annotated[Path, output_option(help="Folder to write to.")],
    name: Annotated[str, typer.Option(help="Name of the files.")] = "train",
    images: Annotated[
        Images, typer.Option(help="Store images in the file (bytes) or beside it (paths).")
    ] = Images.bytes,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    root: Root = None,
    set_: Set = None,
) -> None:
    """Write NAME.parquet, which verl reads, and NAME.tasks.parquet with the images."""
    from agentfly.datasets import load_tasks
    from agentfly.training.recipe.verl_dataset import write_rows

    tasks = load_tasks(source, split=split, limit=limit, seed=seed, root=root, **_options(set_))
    path = write_rows(tasks, out, name, images=images.value)
    Console().print(Text(printable(f"wrote {path}")), soft_wrap=True)


@data.command()
def pairs(
    source: Annotated[Path, typer.Argument(help="Folder of a run of train or eval, or its trajectories.jsonl.")],
    out: Annotated[Path, output_option(help="Folder to write to.")],
    model: Annotated[str, typer.Option(help="The policy that sampled the chains: folder or hub name.")],
    template: Annotated[str | None, typer.Option(help="Chat template, if the policy has none of its own.")] = None,
    min_gap: Annotated[float, typer.Option(min=0, help="Least difference of the scores, 0 to 100.")] = 10.0,
    per_group: Annotated[int, typer.Option(min=1, help="Most pairs of one prompt.")] = 1,
) -> None:
    """Pair better and worse chains of the same prompt, for preference training (DPO) with TRL."""
    from agentfly.training.supervised.pairs import PairExport, export_pairs

    found = export_pairs(PairExport(source, out, model, template, min_gap, per_group))
    for reason, count in found.left_out.items():
        Console().print(Text(printable(f"left out: {count} {reason}")), soft_wrap=True)
    Console().print(Text(printable(f"wrote {found.pairs} pairs to {found.folder}")), soft_wrap=True)


def _options(pairs: list[str] | None) -> Mapping[str, Any]:
    """Return the options of NAME=VALUE pairs. A value in JSON (a number, a list, true) is parsed."""
    options: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair}: give NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            # People also write YAML, as in a recipe: {instruction: prompt}.
            options[name] = parse_yaml(value, f"--set {pair}") if value[:1] in ("{", "[") else value
    return options
