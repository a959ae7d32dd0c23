"""`agentfly eval`, `agentfly compare` and `agentfly replay`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from agentfly.cli.options import (
    AgentName,
    BaseUrl,
    Engine,
    MaxTurns,
    Nodes,
    NodesKeyEnv,
    Template,
    Tools,
    output_option,
    read_agent,
    read_node_options,
    read_tools,
)
from agentfly.errors import AgentFlyError, ConfigError, printable

if TYPE_CHECKING:
    from agentfly.evaluation import TaskRecord
    from agentfly.evaluation.report.summary import Figures, Summary

Evaluators = Annotated[
    list[str] | None,
    typer.Option(
        help="Evaluator: reference, judge:MODEL, a YAML file or JSON. Repeat for more; success is by the first."
    ),
]
Data = Annotated[str | None, typer.Option(help="Name of a data set (stickers, gedit-bench, …) or a path.")]
Split = Annotated[str | None, typer.Option(help="Split of the data set.")]
Limit = Annotated[int | None, typer.Option(help="Most tasks to run.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the data set and of sampling.")]
Root = Annotated[Path | None, typer.Option(help="Folder with the data set's files, instead of a download.")]
DataOptions = Annotated[str | None, typer.Option(help="Further options of the data set, as JSON.")]
Concurrency = Annotated[int | None, typer.Option(help="Tasks that run at the same time.")]
Gallery = Annotated[int | None, typer.Option(help="Most tasks in the gallery, worst first; 0 for no gallery.")]
Protocol = Annotated[
    str | None, typer.Option(help="Protocol of a benchmark: gedit, imgedit, risebench, kris, emu-edit, magicbrush.")
]
ProtocolRoot = Annotated[
    Path | None, typer.Option(help="Clone of the authors' repository, whose prompts are read; default: a download.")
]
ProtocolOptions = Annotated[str | None, typer.Option(help="Metrics and models of a protocol that measures, as JSON.")]
JudgeOption = Annotated[
    str | None, typer.Option(help="The protocol's judge, MODEL[,base_url=URL,…] or a file; default: its authors'.")
]


def evaluate(
    config: Annotated[Path | None, typer.Option(help="YAML file whose keys are these options.")] = None,
    data: Data = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = None,
    root: Root = None,
    data_options: DataOptions = None,
    agent: Annotated[
        str | None,
        typer.Option(help="image-editing, refinement-loop, director-generator, module:name, JSON, or card."),
    ] = None,
    tools: Tools = None,
    reward: Annotated[
        str | None, typer.Option(help="Reward function, module:name with @reward; scored as the first evaluator.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Policy folder, hub name, or the endpoint's model name.")] = None,
    base_url: BaseUrl = None,
    template: Template = None,
    engine: Engine = None,
    nodes: Nodes = None,
    nodes_key_env: NodesKeyEnv = None,
    max_turns: MaxTurns = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens per turn; default: the policy's own limit.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0, the default, takes the likeliest token.")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the endpoint's key.")] = None,
    backend_config: Annotated[str | None, typer.Option(help="Further settings of the backend, as JSON.")] = None,
    agent_options: Annotated[str | None, typer.Option(help="Further arguments of the agent, as JSON.")] = None,
    evaluator: Evaluators = None,
    protocol: Protocol = None,
    protocol_root: ProtocolRoot = None,
    protocol_options: ProtocolOptions = None,
    judge: JudgeOption = None,
    repeats: Annotated[int | None, typer.Option(help="Attempts at each task, for pass@k and mean@k.")] = None,
    out: Annotated[
        Path | None, output_option("-o", "--out", help="Folder of the run; an unfinished run there is resumed.")
    ] = None,
    concurrency: Concurrency = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one task.")] = None,
    gallery: Gallery = None,
    retry_failed: Annotated[
        bool | None, typer.Option("--retry-failed", help="Run again the tasks that ended with a fault.")
    ] = None,
) -> None:
    """Run an agent on a data set and score it: a table by task type, a gallery, and every trajectory."""
    given = dict(locals())
    from agentfly.evaluation.run import run_evaluation
    from agentfly.evaluation.settings import read_settings
    from agentfly.viewer.command import view_command

    # The engine's start-up messages are for people who ask for them.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    servers = read_node_options(given.pop("nodes"), given.pop("nodes_key_env"))
    given["client_nodes"] = [node.to_spec() for node in servers]
    settings = read_settings(given.pop("config"), _read_options(given))
    summary = asyncio.run(run_evaluation(settings, _Progress(settings.limit and settings.limit * settings.repeats)))
    _show(settings.out, summary)
    _console().print(Text(printable(view_command(settings.out))), soft_wrap=True)
    everything = summary["all"]
    if everything["failed"] == everything["attempts"]:
        raise AgentFlyError(
            f"all {everything['attempts']} tasks failed: {_first_reason(everything)}; --retry-failed runs them again"
        )
    _require_scores(summary)


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(help="Folder of the run to compare with it; differences are B minus A.")],
    evaluator: Annotated[
        list[str] | None, typer.Option(help="Evaluator to compare by; default: all that both runs have.")
    ] = None,
    out: Annotated[Path | None, output_option("-o", "--out", help="Folder for comparison.json and .md.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the permutation test.")] = 0,
) -> None:
    """Compare two runs on the same tasks, with a paired test."""
    from agentfly.evaluation.compare import compare_runs, comparison_page, write_comparison

    found = compare_runs(a, b, evaluator or (), seed=seed)
    typer.echo(printable(comparison_page(found)))
    if out is not None:
        write_comparison(found, out)
        written = f"{out / 'comparison.json'}, {out / 'comparison.md'}"
        _console().print(Text(printable(written)), soft_wrap=True)


def replay(
    run: Annotated[Path, typer.Argument(help="Folder with trajectories.jsonl, or a file of trajectories.")],
    evaluator: Evaluators = None,
    protocol: Protocol = None,
    protocol_root: ProtocolRoot = None,
    protocol_options: ProtocolOptions = None,
    judge: JudgeOption = None,
    re_execute: Annotated[
        bool | None, typer.Option("--re-execute", help="Run the recorded tool calls again; exit code 1 if they differ.")
    ] = None,
    engine: Engine = None,
    agent: AgentName = None,
    tools: Tools = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if it is not beside the run.")] = None,
    data: Data = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = None,
    root: Root = None,
    data_options: DataOptions = None,
    out: Annotated[
        Path | None, output_option("-o", "--out", help="Folder for the results; default: RUN/replay.")
    ] = None,
    concurrency: Concurrency = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one tool call.")] = None,
    gallery: Gallery = None,
) -> None:
    """Score finished trajectories again, or run their tool calls again, without the agent."""
    given = _read_options(dict(locals()))
    from agentfly.evaluation.replay import ReplaySettings
    from agentfly.evaluation.replay import replay as run_replay
    from agentfly.vision.factory import read_engines

    if "engine" in given:
        given["engine"] = read_engines(given["engine"])
    settings = ReplaySettings(**given)
    result = asyncio.run(run_replay(settings, _Progress(None)))
    if result.summary is not None:
        _show(result.out, result.summary)
        _require_scores(result.summary)
    if result.reexecution is not None:
        page = (result.out / "reexecution.md").read_text(encoding="utf-8")
        typer.echo(printable(page))
    if result.differs:
        raise typer.Exit(1)


class _Progress:
    """A line with the progress of a run, on a terminal only."""

    def __init__(self, total: int | None) -> None:
        self._console, self._total = _console(), total
        self._done = self._resumed = self._failed = 0

    def __call__(self, record: TaskRecord, resumed: bool) -> None:
        """Count a record and update the line."""
        self._done += 1
        self._resumed += resumed
        self._failed += record.failed
        if self._console.is_terminal:
            total = f" of {self._total}" if self._total else ""
            words = f"{self._done}{total} tasks, {self._resumed} of them from before, {self._failed} failed"
            self._console.print(words, end="\r", highlight=False)


def _console() -> Console:
    return Console(stderr=True)


def _read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, those in JSON parsed."""
    values = {name: value for name, value in given.items() if value not in (None, [])}
    if "agent" in values:
        values["agent"] = read_agent(values["agent"])
    if "tools" in values:
        values["tools"] = read_tools(values["tools"])
    for name in ("data_options", "backend_config", "agent_options", "protocol_options"):
        if name not in values:
            continue
        option = f"--{name.replace('_', '-')}"
        try:
            values[name] = json.loads(values[name])
        except ValueError as fault:
            raise ConfigError(f"{option} is not valid JSON: {fault}") from fault
        if not isinstance(values[name], dict):
            raise ConfigError(f"{option} is a JSON object, such as '{{\"name\": 1}}'")
    return values


def _show(out: Path, summary: Summary) -> None:
    from agentfly.evaluation.report.markdown import run_page

    typer.echo(printable(run_page(summary)))
    names = ("summary.json", "summary.md", "gallery.html", "trajectories.jsonl")
    written = ", ".join(str(out / name) for name in names if (out / name).exists())
    _console().print(Text(printable(written)), soft_wrap=True)


def _require_scores(summary: Summary) -> None:
    """Raise `AgentFlyError` for a headline without scores: a script must not take it for a result."""
    headline, everything = summary["evaluators"][0], summary["all"]
    if not everything["scores"][headline]["scored"]:
        raise AgentFlyError(f"{headline} scored none of {everything['tasks']} tasks: {_first_reason(everything)}")


def _first_reason(figures: Figures) -> str:
    reasons = (reason for scores in figures["scores"].values() for reason in scores["reasons"])
    return next(reasons, "no reason given").removeprefix("the agent failed: ")
