"""Run the four text systems one after the other, each with its output in a file.

The exit code is 0 if all of them worked and 1 if one failed; the others run in any case.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from agentfly.errors import AgentFlyError, ConfigError
from agentfly.systems import BasicAgent, ChainOfAgents, ContextAgent, MultiCallSystem, VLLMModel
from recipes.options import parse
from recipes.text_systems.settings import exit_code, model_from_environment

HERE = Path(__file__).parent
_PREVIEW = 240

Example = Callable[[VLLMModel, argparse.Namespace], Awaitable[str]]


async def basic(model: VLLMModel, flags: argparse.Namespace) -> str:
    """Send one prompt and get one answer."""
    agent = BasicAgent("explainer", model)
    prompt = "Explain in three sentences what makes an edit of a photograph look natural."
    return await agent.run(prompt, output_path=flags.output_dir / "ex1_basic_agent_output.txt")


async def with_context(model: VLLMModel, flags: argparse.Namespace) -> str:
    """Send a prompt with a context before it."""
    agent = ContextAgent("archivist", model, flags.context.read_text(encoding="utf-8"))
    prompt = "A visitor asks for a print of a glass plate, two metres wide, by tomorrow. What do we answer?"
    return await agent.run(prompt, output_path=flags.output_dir / "ex2_context_agent_output.txt", temperature=0.2)


async def chain(model: VLLMModel, flags: argparse.Namespace) -> str:
    """Ask about a text that is read in parts."""
    system = ChainOfAgents("reader", model, chunk_size=flags.chunk_size, chunk_overlap=flags.chunk_size // 10)
    question = "Who moved the lamp, when, why, and what did it cost?"
    text = flags.longtext.read_text(encoding="utf-8")
    answer = await system.run(question, text, output_dir=flags.output_dir / "ex3_chain_steps")
    (flags.output_dir / "ex3_chain_system_output.txt").write_text(answer, encoding="utf-8")
    return f"{len(system.steps)} steps. {answer}"


async def multi_call(model: VLLMModel, flags: argparse.Namespace) -> str:
    """Send one prompt and get several answers at once."""
    system = MultiCallSystem("designers", model, max_concurrency=flags.max_concurrency)
    prompt = "Write one HTML page with inline CSS for a small photographic archive. Answer with the HTML alone."
    folder = flags.output_dir / "ex4_multi_call_outputs"
    done = await system.run(prompt, flags.num_calls, folder, "website", temperature=0.9)
    failed = [outcome for outcome in done.values() if outcome.startswith("error: ")]
    if failed:
        raise AgentFlyError(f"{len(failed)} of {len(done)} calls failed: {failed[0]}")
    return ", ".join(Path(path).name for path in done.values())


EXAMPLES: dict[str, Example] = {"basic": basic, "context": with_context, "chain": chain, "multi": multi_call}


async def run(flags: argparse.Namespace, console: Console) -> int:
    """Run the chosen examples and return the exit code."""
    for option, path in (("--context", flags.context), ("--longtext", flags.longtext)):
        if not path.is_file():
            raise ConfigError(f"no file at {str(path)!r}: check {option}")
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    model, failed = model_from_environment(flags.env), 0
    try:
        for name in flags.only or EXAMPLES:
            console.print(f"[bold]{name}[/bold] …")
            try:
                text = " ".join((await EXAMPLES[name](model, flags)).split())
            except (AgentFlyError, OSError) as fault:
                failed += 1
                console.print(f"  [red]failed:[/red] {escape(str(fault))}", highlight=False, soft_wrap=True)
                continue
            console.print(f"  {escape(text[:_PREVIEW])}{'…' if len(text) > _PREVIEW else ''}", highlight=False)
    finally:
        await model.close_client()
    console.print(f"outputs are in {flags.output_dir}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser("python -m recipes.text_systems", description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=Path("run_outputs"), help="folder for the outputs")
    parser.add_argument("--env", type=Path, help="settings file; default: .env, if there is one")
    parser.add_argument("--context", type=Path, default=HERE / "context.txt", help="text for ContextAgent")
    parser.add_argument("--longtext", type=Path, default=HERE / "longtext.txt", help="text for ChainOfAgents")
    parser.add_argument("--chunk-size", type=int, default=400, help="tokens in each part of the long text")
    parser.add_argument("--num-calls", type=int, default=3, help="answers of MultiCallSystem")
    parser.add_argument("--max-concurrency", type=int, default=8, help="most calls at the same time")
    parser.add_argument("--only", nargs="+", choices=EXAMPLES, help="examples to run; default: all")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the flags and run."""
    flags = parse(make_parser(), arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return exit_code(run(flags, Console()), "outputs")


if __name__ == "__main__":
    sys.exit(main())
