"""Settings name what is wrong as the person wrote it, never a class of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from pydantic import Field

from agentfly.errors import ConfigError
from agentfly.settings import Settings


class Inner(Settings):
    wall_clock: float = Field(1.0, gt=0)


class Options(Settings):
    written_as: ClassVar[str] = "--"
    max_turns: int = Field(1, ge=1)
    inner: Inner = Inner()


class Node(Options):
    written_as: ClassVar[str] = "agentfly."


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            Options,
            {"max_turn": 2},
            "unknown setting '--max-turn'. Did you mean '--max-turns'? Valid: --inner,",
        ),
        (Node, {"max_turn": 2}, "unknown setting 'agentfly.max_turn'. Did you mean 'agentfly.max_turns'?"),
        (Options, {"max_turns": 0}, "--max-turns: Input should be greater than or equal to 1"),
        (Node, {"inner": {"wall_clock": 0}}, "agentfly.inner: wall_clock: Input should be greater than 0"),
        (Node, {"inner": {"wall_clok": 1}}, "agentfly.inner: unknown setting 'wall_clok'. Did you mean 'wall_clock'?"),
        (Inner, {"wall_clock": "sk-secret"}, "wall_clock: Input should be a valid number"),
    ],
)
def test_a_fault_is_named_as_it_was_written(kind: type[Settings], given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as fault:
        kind(**given)
    assert message in str(fault.value)
    assert "sk-secret" not in str(fault.value)
    assert kind.__name__ not in str(fault.value)


class Renamed(Node):
    renamed: ClassVar[Mapping[str, str]] = {"max_rounds": "max_turns"}


def test_an_old_name_is_accepted_with_a_line_that_names_the_new_one(caplog: pytest.LogCaptureFixture) -> None:
    # A complete configuration has the default of the new name too: what a person wrote counts.
    assert Renamed(max_rounds=3, max_turns=1).max_turns == 3  # type: ignore[call-arg]  # the old name
    assert "agentfly.max_rounds is now called agentfly.max_turns" in caplog.text
