"""Make a small website from a sentence: one call plans the pages, then all pages are written at the same time.

The exit code is 0 if every page of the plan was written and 1 if one is missing; the others are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from agentfly.errors import AgentFlyError
from agentfly.lenient_json import find_json, read_with_slips
from agentfly.messages import without_thoughts
from agentfly.systems import BasicAgent, ContextAgent, VLLMModel
from recipes.options import parse
from recipes.text_systems.settings import exit_code, model_from_environment

_MOST_PAGES = 8
_FILE = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}\.html")
_FENCE = re.compile(r"^```[\w+-]*[ \t]*\n(?P<code>.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_PLAN = """Plan a small website: {wish}

Answer with one JSON object that maps file names to what the page is for, in one sentence each. File names are lower \
case and end in .html; index.html is among them; at most {most} pages."""
_PAGE = """Write the page {file} of this website. It is one whole HTML document with inline CSS, links to the other \
pages by their file names, has one look with them, and loads nothing from elsewhere. Answer with the HTML alone."""


def code_of(text: str) -> str:
    """Return the longest fenced block of an answer, else the answer itself without its reasoning."""
    answer = without_thoughts(text)
    blocks = [match["code"] for match in _FENCE.finditer(answer)]
    return max(blocks, key=len).strip() if blocks else answer


def read_plan(reply: str) -> dict[str, str]:
    """Return the file names and purposes of the pages.

    Raises:
        AgentFlyError: the reply has no plan, or one without index.html.
    """
    text = code_of(reply)
    found: object = next(find_json(text, "{"), None)
    if found is None:
        with suppress(ValueError):
            found = read_with_slips(text[text.find("{") : text.rfind("}") + 1])
    if not isinstance(found, Mapping):
        raise AgentFlyError("the model gave no plan: its answer has no JSON object; try again or use another model")
    # A name from a model must not lead out of the folder.
    pages = {str(file): str(purpose) for file, purpose in found.items() if _FILE.fullmatch(str(file))}
    if "index.html" not in pages:
        raise AgentFlyError("the model's plan has no index.html: try again or use another model")
    return dict(list(pages.items())[:_MOST_PAGES])


async def build(model: VLLMModel, wish: str, folder: Path, console: Console) -> int:
    """Plan and write a website; return the exit code.

    Args:
        model: plans and writes.
        wish: description of the website.
        folder: of the pages; the model's replies go to `replies` in it.
        console: for the progress.
    """
    raw = folder / "replies"
    plan = read_plan(
        await BasicAgent("planner", model).run(
            _PLAN.format(wish=wish, most=_MOST_PAGES), output_path=raw / "plan.txt", temperature=0.2
        )
    )
    console.print(f"pages: {', '.join(plan)}", highlight=False)
    writer = ContextAgent("writer", model, f"{wish}\n\nThe pages:\n{json.dumps(plan, indent=2, ensure_ascii=False)}")

    async def write(file: str) -> bool:
        try:
            html = code_of(await writer.run(_PAGE.format(file=file), output_path=raw / f"{file}.txt"))
        except AgentFlyError as fault:
            console.print(f"  [red]{file} failed:[/red] {escape(str(fault))}", highlight=False)
            return False
        if "<" not in html:
            console.print(f"  [red]{file} failed:[/red] the answer is no HTML", highlight=False)
            return False
        (folder / file).write_text(html + "\n", encoding="utf-8")
        console.print(f"  {folder / file}", highlight=False, markup=False, soft_wrap=True)
        return True

    return 0 if all(await asyncio.gather(*map(write, plan))) else 1


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser("python -m recipes.text_systems.website_builder", description=__doc__)
    parser.add_argument("wish", nargs="?", default="a bakery in a harbour town that sells sourdough and lends books")
    parser.add_argument("--output-dir", type=Path, default=Path("generated_website"))
    parser.add_argument("--env", type=Path, help="settings file; default: .env, if there is one")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the flags and run."""
    flags = parse(make_parser(), arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    async def run() -> int:
        model = model_from_environment(flags.env)
        try:
            return await build(model, flags.wish, flags.output_dir, Console())
        finally:
            await model.close_client()

    return exit_code(run(), "pages")


if __name__ == "__main__":
    sys.exit(main())
