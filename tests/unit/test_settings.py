"""Settings name what is wrong as the person wrote it, never a class of ours."""

from __future__ import annotations

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
