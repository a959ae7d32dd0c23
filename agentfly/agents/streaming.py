"""Typed events of a running chain, and a console that shows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

EventKind = Literal["turn", "delta", "tool", "observation", "end"]


@dataclass(frozen=True)
class Event:
    """Something that happened on a chain.

    Attributes:
        kind: "turn" (a generation starts), "delta" (a piece of text), "tool" (a call starts), "observation" (what it
            gave), "end" (the chain is over; `text` is the stop reason).
        chain: id of the trajectory.
        text: in words.
        images: handles of pictures that came with it.
    """

    kind: EventKind
    chain: str
    text: str = ""
    images: tuple[str, ...] = ()


OnEvent = Callable[[Event], Awaitable[None]]


class ConsoleStream:
    """Shows the events of one chain as they come."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()

    async def __call__(self, event: Event) -> None:
        """Show one event."""
        out = self._console
        if event.kind == "delta":
            out.print(escape(event.text), end="", highlight=False)
        elif event.kind == "turn":
            out.print(f"[dim]{escape(event.text)}[/dim]")
        elif event.kind == "tool":
            out.print(f"\n[cyan]→ {escape(event.text)}[/cyan]")
        elif event.kind == "observation":
            pictures = f" [dim]{' '.join(event.images)}[/dim]" if event.images else ""
            out.print(f"[green]← {escape(event.text)}[/green]{pictures}")
        else:
            out.print(f"\n[dim]end: {escape(event.text)}[/dim]")
