"""A console that shows a run as it happens.

One chain is shown word by word. Several are shown turn by turn, and each line bears the name of its chain. Images are
shown small: inline where the terminal has a protocol for them, as half blocks where it has colours. Protocols: kitty
graphics (https://sw.kovidgoyal.net/kitty/graphics-protocol), iTerm2 inline images
(https://iterm2.com/documentation-images.html).
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Mapping
from typing import Literal

from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

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
from agentfly.errors import printable, shortened
from agentfly.images import encode_image, on_white

Protocol = Literal["kitty", "iterm2", "blocks"]

_MAX_ARGUMENTS = 300
_COLUMNS, _ROWS = 32, 12
_PIXELS = 256
_CHUNK = 4096


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
                self._line(chain, f"→ {shortened(name)}({text})", "cyan")
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
        name = Text(f"{printable(chain)} │ ", "dim") if self._many and chain else Text()
        self._console.print(Text.assemble(name, (printable(text), style), (printable(aside), "dim")), soft_wrap=True)


def show_styled(console: Console, text: Text) -> None:
    """Print a text with the console's colours for numbers, names and paths, as it prints a `str`.

    Unlike a `str`, the text may come from anywhere: nothing in it is read as markup.

    Args:
        console: where to print.
        text: printable; its own styles go before those colours.
    """
    shown = console.highlighter(text.plain)
    shown.copy_styles(text)
    console.print(shown)


def image_protocol(console: Console, environment: Mapping[str, str]) -> Protocol | None:
    """Return the protocol by which a console can show images, None where it cannot or is no terminal.

    Args:
        console: where images would be shown.
        environment: variables that name the terminal.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    # A multiplexer before the terminal does not pass images on.
    direct = "TMUX" not in environment and not environment.get("TERM", "").startswith(("screen", "tmux"))
    if direct and ("KITTY_WINDOW_ID" in environment or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty")):
        return "kitty"
    iterm = environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2"
    if direct and iterm:
        return "iterm2"
    return "blocks" if console.color_system in ("256", "truecolor") and not console.no_color else None


def show_image(console: Console, image: Image.Image, protocol: Protocol) -> None:
    """Write a thumbnail on lines of its own.

    Args:
        console: a terminal.
        image: scaled down as the protocol needs.
        protocol: of `image_protocol`.
    """
    if protocol == "blocks":
        console.print(_half_blocks(image), soft_wrap=True)
        return
    small = image.copy()
    small.thumbnail((_PIXELS, _PIXELS))
    png = encode_image(small)
    console.file.write((_kitty(png) if protocol == "kitty" else _iterm2(png)) + "\n")
    console.file.flush()


def _kitty(png: bytes) -> str:
    data = base64.standard_b64encode(png).decode()
    chunks = [data[i : i + _CHUNK] for i in range(0, len(data), _CHUNK)]
    parts = []
    for index, chunk in enumerate(chunks):
        control = f"a=T,f=100,q=2,r={_ROWS}," if index == 0 else ""
        parts.append(f"\x1b_G{control}m={int(index + 1 < len(chunks))};{chunk}\x1b\\")
    return "".join(parts)


def _iterm2(png: bytes) -> str:
    control = f"inline=1;size={len(png)};height={_ROWS};preserveAspectRatio=1"
    return f"\x1b]1337;File={control}:{base64.standard_b64encode(png).decode()}\x07"


def _half_blocks(image: Image.Image) -> Text:
    """Return two pixels per character: the upper one is its colour, the lower one its background."""
    scale = min(_COLUMNS / image.width, 2 * _ROWS / image.height)
    columns, rows = max(1, round(image.width * scale)), max(1, round(image.height * scale / 2))
    pixels = on_white(image).resize((columns, 2 * rows), Image.Resampling.BOX).tobytes()

    def colour(x: int, y: int) -> Color:
        at = 3 * (y * columns + x)
        return Color.from_rgb(*pixels[at : at + 3])

    text = Text()
    for row in range(rows):
        for x in range(columns):
            text.append("▀", Style(color=colour(x, 2 * row), bgcolor=colour(x, 2 * row + 1)))
        text.append("\n" if row + 1 < rows else "")
    return text
