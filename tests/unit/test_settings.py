"""Settings name what is wrong as the person wrote it, never a class of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from pydantic import Field

from agentfly.agents.llm_backends import ClientConfig
from agentfly.errors import ConfigError
from agentfly.settings import Settings, checked_address


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


@pytest.mark.parametrize(
    "address",
    [
        "",
        "h:8000/v1",
        "ftp://h/v1",
        "http://",
        "http://h:99999/v1",
        "http://h:0/v1",
        "http://h:port/v1",
        "http://[::1/v1",
        "http://xn--/v1",
        "http://h/\x00",
    ],
)
def test_an_address_that_no_server_can_have_is_refused_when_it_is_given(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^base_url: no address of a server: write http://HOST:PORT/v1$"):
        ClientConfig(base_url=address)


@pytest.mark.parametrize("address", ["http://h", "https://me:pw@h:8000/v1?key=k", "http://[::1]:80/v1", "HTTP://h/v1"])
def test_the_address_of_a_server_stays_as_it_is_but_for_spaces_around_it(address: str) -> None:
    assert checked_address(f" {address}\n") == address
