"""Small images in a terminal: inline where it has a protocol for them, half blocks where it has colours.

Protocols: kitty graphics (https://sw.kovidgoyal.net/kitty/graphics-protocol), iTerm2 inline images
(https://iterm2.com/documentation-images.html).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal

from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from agentfly.images import encode_image

Protocol = Literal["kitty", "iterm2", "blocks"]

_COLUMNS, _ROWS = 32, 12
_PIXELS = 256
_CHUNK = 4096


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
    pixels = image.convert("RGB").resize((columns, 2 * rows), Image.Resampling.BOX).tobytes()

    def colour(x: int, y: int) -> Color:
        at = 3 * (y * columns + x)
        return Color.from_rgb(*pixels[at : at + 3])

    text = Text()
    for row in range(rows):
        for x in range(columns):
            text.append("▀", Style(color=colour(x, 2 * row), bgcolor=colour(x, 2 * row + 1)))
        text.append("\n" if row + 1 < rows else "")
    return text
