"""The console that shows a run: whatever comes from outside is shown, and nothing of it is obeyed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from agentfly.agents.display.console import ConsoleStream, show_styled
from agentfly.agents.streaming import (
    ChainEnd,
    ChainStart,
    Delta,
    ErrorRaised,
    Observation,
    RunStart,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from agentfly.agents.trajectory import StopReason
from tests.unit.hostile import EVERYTHING, HOSTILE, assert_tame


@pytest.mark.parametrize("chains", [("a-0",), ("a-0", EVERYTHING)])
@pytest.mark.parametrize("hostile", [*HOSTILE, EVERYTHING])
async def test_a_run_is_shown_whatever_models_and_servers_say(hostile: str, chains: tuple[str, ...]) -> None:
    file, chain = io.StringIO(), chains[-1]
    show = ConsoleStream(console=Console(file=file, highlight=False, width=400))
    for event in (
        RunStart(chains, ()),
        ChainStart(chain),
        TurnStart(chain, 0),
        Delta(chain, 0, hostile),
        TurnEnd(chain, 0, hostile, 1.0),
        ToolStart(chain, 0, 0, hostile, {hostile: hostile}),
        ToolEnd(chain, 0, 0, hostile, 1.0, None),
        Observation(chain, 0, 0, hostile, (hostile,)),
        ErrorRaised(chain, hostile),
        ChainEnd(chain, StopReason.MAX_TURNS, 1.0, None),
    ):
        await show(event)
    if hostile == EVERYTHING:
        assert_tame(file.getvalue())


def test_a_styled_text_has_the_colours_of_a_string_with_the_same_markup() -> None:
    def shown(text: str | Text) -> str:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, color_system="truecolor", width=60)
        show_styled(console, text) if isinstance(text, Text) else console.print(text)
        return file.getvalue()

    words = ": 3 images at /tmp/a.png, 'quoted', True " * 3
    assert shown(Text.assemble(("user", "bold"), words, (" img_1", "dim"))) == shown(
        f"[bold]user[/bold]{words}[dim] img_1[/dim]"
    )
    assert "\x1b[" in shown(f"[bold]user[/bold]{words}")
