"""The value of `tools`: names and groups choose, everything else is added, in Python and from words alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfly.agents import Agent, ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.user_tools import GivenTool
from agentfly.errors import ConfigError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import tool
from agentfly.tools.groups import GROUPS, group_class, group_of, names_in
from agentfly.vision import Engines

EDIT = ["detect_objects", "inpaint_image", "auto_inpaint_image", "qwen_edit_image", "give_answer"]
MODULE = '''
from agentfly.tools import tool

@tool
def hello(name: str) -> str:
    """Greet."""
    return f"hello {name}"

class Stamp:
    def __init__(self, images, size: int = 1, engines=None):
        self.images, self.size, self.engines = images, size, engines

    @tool
    def stamp(self) -> str:
        """Stamp."""
        return f"{self.size} {len(self.images)} {self.engines is not None}"

both = [hello, Stamp]
number = 3
'''


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tools_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@tool
def shout(text: str) -> str:
    """Shout."""
    return text.upper()


class Whispering(ImageEditingAgent):
    @tool
    def whisper(self, text: str) -> str:
        """Whisper."""
        return text.lower()


def names(kind: type[Agent], *given: GivenTool) -> list[str]:
    agent = kind("s", backend=ScriptedBackend([]), tools=given or None)
    return [tool.name for tool in agent.tools_for(ImageView(ImageStore()))]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((), EDIT),
        ((shout,), [*EDIT, "shout"]),
        (("own_tools_of_a_test:hello",), [*EDIT, "hello"]),
        (("own_tools_of_a_test:both",), [*EDIT, "hello", "stamp"]),
        (("detect_objects",), ["detect_objects", "give_answer"]),
        (("give_answer", shout), ["give_answer", "shout"]),
        (("edit",), EDIT),
        (("own",), EDIT),
        (("zoom",), ["give_answer", "zoom"]),
        (("detect_objects", "zoom", shout), ["detect_objects", "give_answer", "zoom", "shout"]),
    ],
)
def test_names_and_groups_choose_and_the_rest_is_added(given: tuple[GivenTool, ...], found: list[str]) -> None:
    assert names(ImageEditingAgent, *given) == found


def test_groups_come_with_all_of_their_tools() -> None:
    looking = names(ImageEditingAgent, "look")
    assert set(looking) == {"give_answer", *names_in(group_class("look"))}
    everything = names(ImageEditingAgent, *GROUPS)
    assert set(everything) == {name for group in GROUPS for name in names_in(group_class(group))}
    assert everything[: len(EDIT)] == EDIT


def test_no_two_groups_have_a_tool_of_one_name() -> None:
    everything = [name for group in GROUPS for name in names_in(group_class(group))]
    assert len(everything) == len(set(everything))
    assert group_of("detect_objects") == "edit"
    assert group_of("nothing_of_the_sort") is None


def test_methods_of_the_agent_are_its_own() -> None:
    assert names(Whispering) == [*EDIT, "whisper"]
    assert names(Whispering, "own", "zoom") == [*EDIT, "whisper", "zoom"]
    assert names(Whispering, "whisper") == ["give_answer", "whisper"]
    assert names(Whispering, "edit") == EDIT


def test_an_agent_without_tools_has_those_that_are_given() -> None:
    assert names(Agent, shout) == ["shout"]
    assert "zoom" in names(Agent, "look")
    assert names(Agent, "give_answer") == ["give_answer"]


async def test_a_class_gets_what_its_constructor_asks_for() -> None:
    agent = Agent("s", backend=ScriptedBackend([]), tools=[{"tool": "own_tools_of_a_test:Stamp", "size": 7}])
    tools = agent.tools_for(ImageView(ImageStore()))
    assert (await tools.execute(ToolCall("c", "stamp", {}))).text == "7 0 True"


def test_engines_of_the_agent_go_to_the_groups() -> None:
    class Engine:
        name = "none"

    engines = Engines(Engine(), Engine(), Engine())  # type: ignore[arg-type]
    agent = ImageEditingAgent("s", backend=ScriptedBackend([]), engines=engines, tools=["compose"])
    found = agent.tools_for(ImageView(ImageStore())).get("edit_with_references")
    assert found is not None
    assert vars(found.function.__self__)["_engines"] is engines  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("zooom", "unknown tool 'zooom'. Did you mean 'zoom'"),
        ("own_tools_of_a_test:helo", "has no 'helo'"),
        ("own_tools_of_a_test:number", "3 is no tool; mark a function"),
        ({"tool": "own_tools_of_a_test:Stamp", "colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"tool": "own_tools_of_a_test:number"}, "takes no arguments"),
        ({"name": "x"}, 'is written {"tool": "module:name"'),
        (shout.__name__ + ":x", "no module 'shout' is found"),
    ],
)
def test_what_is_no_tool_is_refused_with_the_reason(given: GivenTool, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        names(ImageEditingAgent, given)
    assert message in str(found.value)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two tools are named 'shout'"):
        names(ImageEditingAgent, shout, shout)


@pytest.mark.parametrize("given", ["look", {"mcp": "http://localhost:1/mcp"}])
def test_one_tool_alone_is_no_list(given: Any) -> None:
    with pytest.raises(ConfigError, match="give a list, such as tools="):
        Agent("s", backend=ScriptedBackend([]), tools=given)
