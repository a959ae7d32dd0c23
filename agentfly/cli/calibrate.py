"""`agentfly calibrate`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from agentfly.cli.options import output_option
from agentfly.errors import EvaluatorError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def calibrate(
    evaluator: Annotated[
        list[str], typer.Argument(help="Evaluators, as for agentfly eval: reference, judge:MODEL, a YAML file or JSON.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Verdicts of people: editreward-bench, editscore-bench, a run that was rated in the viewer, or the "
            ".jsonl file of its ratings. Repeat for more."
        ),
    ] = None,
    out: Annotated[Path, output_option("-o", "--out", help="Folder of the report.")] = Path("runs/calibration"),
    tasks: Annotated[int, typer.Option(help="Tasks of the built-in worlds.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of the built-in worlds.")] = 0,
    repeats: Annotated[int, typer.Option(help="Further scorings of the samples in pairs.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Most verdicts of each data set.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder with a benchmark's files, instead of a download.")] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Attack of your own, as module:function. Repeat for more.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(help="Folder of the records that the dry run of training reads; default: in the user's cache."),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Samples that are scored at the same time.")] = 8,
) -> None:
    """Measure how far evaluators can be trusted: accuracy on pairs, resistance to attacks, repeatability, cost."""
    from agentfly.evaluation.calibration.page import record_lines, summary_tables
    from agentfly.evaluation.calibration.run import CalibrationSettings
    from agentfly.evaluation.calibration.run import calibrate as run_calibration

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    settings = CalibrationSettings(
        evaluator=tuple(evaluator),
        data=tuple(_sources(data or (), out)),
        out=out,
        tasks=tasks,
        seed=seed,
        repeats=repeats,
        limit=limit,
        root=root,
        attack=tuple(attack or ()),
        records=records,
        concurrency=concurrency,
    )
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            if label not in bars:
                bars[label] = progress.add_task(printable(label))
            progress.update(bars[label], completed=done, total=total)

        found = asyncio.run(run_calibration(settings, show))
    typer.echo(printable(summary_tables(found.report)))
    for line in record_lines(found.report):
        console.print(Text(printable(f"caution: {line}"), style="yellow"), soft_wrap=True)
    for path in (found.page, out / "calibration.json", *found.records.values()):
        console.print(Text(printable(str(path))), soft_wrap=True)
    if silent := found.silent():
        lines = [f"{label} scored no pair, and has no record: {why}" for label, why in silent.items()]
        raise EvaluatorError("; ".join(lines))


def _sources(given: Sequence[str], out: Path) -> list[str]:
    """Return the sources of verdicts; the ratings of a run are written beside the report first."""
    from agentfly.viewer.agreement import export_ratings
    from agentfly.viewer.command import find_runs
    from agentfly.viewer.opened import Viewer

    sources = []
    for name in given:
        if Path(name).is_dir():
            file = out / f"ratings-{Path(name).absolute().name}.jsonl"
            export_ratings(Viewer(find_runs([Path(name)])), file)
            name = str(file)
        sources.append(name)
    return sources
