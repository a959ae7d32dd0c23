"""Agents by name: what a person gives wins, the policy's card fills in, and code of strangers is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents import Agent, ImageEditingAgent
from agentfly.agents.factory import agent_class, make_agent, prompt_of
from agentfly.agents.image_editing import SYSTEM_PROMPT
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.policy_config import FILE_NAME, PolicyConfig
from agentfly.agents.spec import AgentSpec, Named, is_foreign
from agentfly.errors import ConfigError
from agentfly.images import ImageStore, ImageView
from agentfly.vision import make_engines

MODULE = """
from agentfly.agents import Agent, ImageEditingAgent
from agentfly.tools import tool

class Painter(ImageEditingAgent):
    default_system_prompt = "Paint."

    def __init__(self, model, *, brush=1, **arguments):
        super().__init__(model, **arguments)
        self.brush = brush

class Talker(Agent):
    pass

class Faulty(Agent):
    def __init__(self, model, **arguments):
        raise RuntimeError("no brush")

def function(): ...
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_agents_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


PAINTER = "own_agents_of_a_test:Painter"


def made(spec: AgentSpec, **arguments: Any) -> Agent:
    return make_agent(spec, "m", backend=ScriptedBackend([]), **arguments)


def test_the_default_is_the_image_editing_agent() -> None:
    assert type(made(AgentSpec())) is ImageEditingAgent
    assert AgentSpec().label == AgentSpec(agent="image-editing").label == "image-editing"


def test_a_class_of_ones_own_gets_its_options_its_tools_and_the_engines() -> None:
    engines = make_engines("classical")
    spec = AgentSpec(agent={"agent": PAINTER, "brush": 5}, tools=("detect_objects",))
    agent = made(spec, engines=engines)
    assert vars(agent)["brush"] == 5
    assert agent.engines is engines
    assert [tool.name for tool in agent.tools_for(ImageView(ImageStore()))] == ["detect_objects", "give_answer"]
    assert spec.label == "Painter"


def test_groups_of_an_agent_without_engines_work_with_those_that_are_given() -> None:
    engines = make_engines("classical")
    agent = made(AgentSpec(agent="own_agents_of_a_test:Talker", tools=("edit",)), engines=engines)
    assert agent.engines is engines


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("painter", "there is no agent 'painter': write image-editing, or module:Class"),
        ("own_agents_of_a_test:function", "is no subclass of agentfly.agents.Agent"),
        ("own_agents_of_a_test:Faulty", r"cannot be made: RuntimeError: no brush \(.*own_agents_of_a_test.py:\d+\)"),
        ({"agent": PAINTER, "brushes": 2}, "unknown argument 'brushes'. Did you mean 'brush'"),
        ({"agent": PAINTER, "engines": "models"}, "engines stands beside the agent"),
        ({"brush": 2}, 'is written {"agent": "module:Class"'),
    ],
)
def test_what_cannot_be_made_is_told(agent: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(AgentSpec(agent=agent))


def test_image_servers_are_for_agents_that_call_them() -> None:
    with pytest.raises(ConfigError, match="calls no image servers"):
        made(AgentSpec(agent="own_agents_of_a_test:Talker"), client_nodes=["localhost:1"])


OWN, CARD = AgentSpec(agent=PAINTER, tools=("zoom",)), AgentSpec(agent="card")


@pytest.mark.parametrize(
    ("given", "card", "result"),
    [
        (AgentSpec(), AgentSpec(), AgentSpec()),
        (AgentSpec(), AgentSpec(tools=("edit", "look")), AgentSpec(tools=("edit", "look"))),
        (AgentSpec(tools=("edit",)), AgentSpec(tools=("edit", "look")), AgentSpec(tools=("edit",))),
        (OWN, AgentSpec(agent="x:Y", tools=("a:b",)), OWN),
        (AgentSpec(tools=("a:b",)), AgentSpec(tools=("c:d",)), AgentSpec(tools=("a:b",))),
        # Whoever names the agent decides on its tools too.
        (AgentSpec(agent=PAINTER), OWN, AgentSpec(agent=PAINTER)),
        (CARD, OWN, OWN),
        (CARD, AgentSpec(), AgentSpec(agent="image-editing")),
        (AgentSpec(agent="card", tools=("edit",)), OWN, AgentSpec(agent=PAINTER, tools=("edit",))),
    ],
)
def test_what_is_given_wins_over_the_card(given: AgentSpec, card: AgentSpec, result: AgentSpec) -> None:
    assert given.over(card, "p") == result


@pytest.mark.parametrize(
    "card",
    [OWN, AgentSpec(tools=("zoom", "a:b")), AgentSpec(tools=({"mcp": ["rm", "-r"]},)), AgentSpec(agent={"agent": "x"})],
)
def test_code_that_a_card_names_is_not_run_unasked(card: AgentSpec) -> None:
    with pytest.raises(ConfigError, match=r"the policy runs/p was trained with code .* agent=card"):
        AgentSpec().over(card, "runs/p")


def test_names_of_the_package_are_no_foreign_code() -> None:
    assert not any(is_foreign(name) for name in (None, "image-editing", "zoom", "card"))
    foreign: list[Named] = ["a:b", {"mcp": "http://x"}, {"agent": "image-editing"}]
    assert all(is_foreign(name) for name in foreign)


def test_the_prompt_is_that_of_training_else_the_classes_own() -> None:
    trained, untrained = PolicyConfig(agent=PAINTER, system_prompt="As trained."), PolicyConfig()
    assert prompt_of(AgentSpec(agent=PAINTER), trained) == "As trained."
    assert prompt_of(AgentSpec(agent=PAINTER), untrained) == "Paint."
    assert prompt_of(AgentSpec(), untrained) == SYSTEM_PROMPT
    assert prompt_of(AgentSpec(agent="own_agents_of_a_test:Talker"), PolicyConfig(system_prompt="Talk.")) == "Talk."
    assert agent_class(AgentSpec(agent=PAINTER)).default_system_prompt == "Paint."
    # The prompt of another agent suits neither the image-editing agent nor one that edits no images.
    assert prompt_of(AgentSpec(agent="image-editing"), trained) == SYSTEM_PROMPT
    assert prompt_of(AgentSpec(agent="own_agents_of_a_test:Talker"), untrained) is None
    assert prompt_of(AgentSpec(agent={"agent": PAINTER, "brush": 2}), trained) == "As trained."


def test_the_card_remembers_the_agent_and_stays_short_without_one(tmp_path: Path) -> None:
    PolicyConfig(agent=PAINTER, tools=("zoom", {"mcp": "http://x"}), reward="a:b").write(tmp_path)
    read = PolicyConfig.read(str(tmp_path))
    assert (read.agent, read.tools, read.reward) == (PAINTER, ("zoom", {"mcp": "http://x"}), "a:b")
    PolicyConfig(tools=({"mcp": "http://me:pw@x/mcp"}, {"mcp": ["server", "--token", "abc"]})).write(tmp_path)
    assert PolicyConfig.read(str(tmp_path)).tools == (
        {"mcp": "http://***@x/mcp"},
        {"mcp": ["server", "--token", "***"]},
    )
    PolicyConfig().write(tmp_path)
    assert set(json.loads((tmp_path / FILE_NAME).read_text())) == {"system_prompt", "max_turns", "max_tokens_per_turn"}
