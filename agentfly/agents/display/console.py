"""A console that shows a run as it happens.

One chain is shown word by word. Several are shown turn by turn, and each line bears the name of its chain.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from PIL import Image
from rich.console import Console
from rich.text import Text

from agentfly.agents.display.thumbnails import image_protocol, show_image
from agentfly.agents.streaming import (
    ChainEnd,
    ChainStart,
    Delta,
    ErrorRaised,
    Event,
    Observation,
    RunEnd,
    RunStart,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from agentfly.errors import printable

_MAX_ARGUMENTS = 300


class ConsoleStream:
    """A listener that prints the events of a run.

    Args:
        load_image: loads the image of a handle; None shows no thumbnails.
        console: where to print; the standard output by default.
    """

    def __init__(self, load_image: Callable[[str], Image.Image] | None = None, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._load = load_image
        self._protocol = image_protocol(self._console, os.environ)
        self._many = False
        self._streamed = False
        self._seconds: dict[tuple[str, int, int], tuple[float, bool]] = {}

    async def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Observation):
            # Load first: text and images of one chain must not be torn apart by another chain's lines.
            images: list[Image.Image] = []
            if self._load is not None and self._protocol is not None:
                images = await asyncio.to_thread(lambda load: [load(handle) for handle in event.images], self._load)
            seconds, failed = self._seconds.pop((event.chain, event.turn, event.call), (0.0, False))
            handles = f" {' '.join(event.images)}" if event.images else ""
            self._line(event.chain, f"← {event.text}", "red" if failed else "green", f"{handles} {seconds:.1f} s")
            for image in images:
                if self._protocol is not None:
                    show_image(self._console, image, self._protocol)
        else:
            self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case RunStart(chains, resumed):
                self._many = len(chains) - len(resumed) > 1
                if resumed:
                    self._line("", f"{len(resumed)} of {len(chains)} chains were finished before", "dim")
            case ChainStart(chain):
                if self._many:
                    self._line(chain, "start", "dim")
            case TurnStart(chain, turn):
                self._streamed = False
                if not self._many:
                    self._line(chain, f"turn {turn + 1}", "dim")
            case Delta(_, _, text):
                if not self._many:
                    self._streamed = True
                    self._console.print(Text(printable(text)), end="", soft_wrap=True)
            case ToolEnd(chain, turn, call, _, seconds, error):
                self._seconds[chain, turn, call] = seconds, error is not None
            case ToolStart(chain, _, _, name, arguments):
                text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
                text = text if len(text) <= _MAX_ARGUMENTS else f"{text[:_MAX_ARGUMENTS]}…"
                self._line(chain, f"→ {name}({text})", "cyan")
            case TurnEnd(chain, turn, text, seconds):
                if self._streamed and not self._many:
                    self._console.print()
                else:
                    self._line(chain, text)
                self._line(chain, f"turn {turn + 1}: {seconds:.1f} s", "dim")
            case ErrorRaised(chain, message):
                self._line(chain or "", f"error: {message}", "red")
            case ChainEnd(chain, reason, seconds, reward):
                worth = "" if reward is None else f", reward {reward:.3g}"
                self._line(chain, f"end: {reason.value}, {seconds:.1f} s{worth}", "dim")
            case RunEnd(result, _, seconds):
                if self._many and result is not None:
                    counts = ", ".join(f"{count} {reason.value}" for reason, count in result.stop_reasons.items())
                    self._line("", f"{len(result)} chains in {seconds:.1f} s: {counts}", "bold")

    def _line(self, chain: str, text: str, style: str = "", aside: str = "") -> None:
        name = Text(f"{chain} │ ", "dim") if self._many and chain else Text()
        self._console.print(Text.assemble(name, (printable(text), style), (aside, "dim")), soft_wrap=True)
