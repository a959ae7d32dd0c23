"""Agents by name: what was given reaches them, what they do not take is refused, and never dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import ConfigError
from agentfly.evaluation import EvaluationSettings, TaskAgent, make_task_agent, read_settings
from agentfly.evaluation.task_agent import AGENTS, NamedTaskAgent
from agentfly.images import ImageStore
from agentfly.tools import ToolResult, tool
from tests.unit.evaluation.agents import PlainAgent, call, scripted, task

HERE = "tests.unit.evaluation.test_task_agent"
OBJECT = PlainAgent()


def taking(*, store: ImageStore, model: str = "none", timeout: float = 0.0, **more: Any) -> PlainAgent:
    """An agent that keeps what it was given."""
    agent = PlainAgent(store=store)
    agent.name = f"{model} {timeout} {more}"
    return agent


def bare() -> PlainAgent:
    return PlainAgent()


def made(**settings: Any) -> TaskAgent:
    return make_task_agent(EvaluationSettings(data="d", out=Path("o"), **settings), STORE)


STORE = ImageStore()


def test_given_settings_and_options_reach_the_agent() -> None:
    agent = made(agent=f"{HERE}:taking", model="m", agent_options={"extra": 1}, timeout=100)
    assert agent.name == "m 95.0 {'extra': 1}"
    assert agent.store is STORE
    assert made(agent=f"{HERE}:OBJECT") is OBJECT


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agent": "image-edting"}, "Did you mean 'image-editing'.*or module:name"),
        ({"agent": "nowhere:Agent"}, "there is no agent 'nowhere:Agent'.*PYTHONPATH"),
        ({"agent": f"{HERE}:bare", "temperature": 0.5}, "has no setting temperature: leave it out"),
        ({"agent": f"{HERE}:bare", "agent_options": {"x": 1}}, "unexpected keyword argument 'x'"),
        ({"agent": "pathlib:Path"}, "lacks name, store, attempt or close"),
        ({"agent": "math:pi"}, "name a class, a function or an object"),
    ],
)
def test_what_cannot_be_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(**settings)


class Mirroring(ImageEditingAgent):
    """An agent of one's own, with a tool and an argument of its own."""

    default_system_prompt = "Mirror what you get."

    def __init__(self, model_name_or_path: str, *, axis: str = "none", **arguments: Any) -> None:
        super().__init__(model_name_or_path, **arguments)
        self.axis = axis

    @tool
    def mirror(self, image_id: str) -> ToolResult:
        """Mirror an image."""
        name = self.images.add(self.images.get(image_id).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        return ToolResult(name, (self.images.handle(name),))


async def test_a_subclass_of_the_image_editing_agent_needs_no_wrapper() -> None:
    script = ScriptedBackend([call("mirror", image_id="img_1"), call("give_answer", final_image_id="img_2")])
    options = {"axis": "x", "backend": script}
    agent = made(agent=f"{HERE}:Mirroring", model="m", max_turns=3, temperature=0.5, agent_options=options)
    assert agent.name == "Mirroring"
    assert agent.store is STORE
    trajectory = await agent.attempt(task(3))
    assert [record.name for record in trajectory.tool_records] == ["mirror", "give_answer"]
    assert trajectory.messages[0].text == "Mirror what you get."
    inner: Any = agent._agent  # type: ignore[attr-defined]
    assert (inner.axis, inner.settings.limits.max_turns, inner.settings.sampling.temperature) == ("x", 3, 0.5)


def test_arguments_that_a_subclass_does_not_take_are_named() -> None:
    options = {"axs": "x", "backend": ScriptedBackend([])}
    with pytest.raises(ConfigError, match=r"axs.*Did you mean 'axis'"):
        made(agent=f"{HERE}:Mirroring", model="m", agent_options=options)


def test_the_named_agents_are_agents() -> None:
    import importlib

    for address in AGENTS.values():
        module, _, name = address.partition(":")
        found = getattr(importlib.import_module(module), name)
        assert callable(found.attempt)
        assert callable(found.close)


def test_the_quickstart_policy_is_asked_for_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="make quickstart"):
        made()


async def test_the_image_editing_agent_attempts_a_task_and_keeps_what_it_did_in_time() -> None:
    edit = call("qwen_edit_image", image_id="img_1", prompt="darken")
    agent = scripted(None, edit, call("give_answer", final_image_id="img_2"))
    trajectory = await agent.attempt(task(3))
    assert trajectory.final_image in agent.store
    assert trajectory.metadata == {"id": "t3", "task_type": "darken"}
    slow = NamedTaskAgent(
        model="s", backend=ScriptedBackend([edit, edit], lambda r: 5.0 * (len(r.messages) > 2)), timeout=0.5
    )
    assert slow._agent.settings.limits.wall_clock == 0.5
    stopped = await slow.attempt(task(3))
    assert stopped.stop_reason is not None
    assert stopped.stop_reason.value == "wall_clock"
    assert len(stopped.turns) == 1


def test_settings_come_from_a_file_and_the_command_line_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "eval.yaml"
    file.write_text("data: stickers\nout: o\nevaluator: reference\nmax_turns: 3\nbackend_config: {timeout: 5}\n")
    settings = read_settings(file, {"max_turns": 4, "data": None})
    assert (settings.data, settings.max_turns, settings.evaluator) == ("stickers", 4, ("reference",))
    assert settings.backend_config == {"timeout": 5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: d", "--out is missing"),
        ("out: o", "--data is missing"),
        ("data: d\nout: o\nevaluators: [reference]", "Did you mean '--evaluator'"),
        ("- data", "holds no settings"),
        ("data: [", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "eval.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_settings(tmp_path / "eval.yaml", {})


def test_identity_is_what_decides_results(tmp_path: Path) -> None:
    def identity(**more: Any) -> dict[str, Any]:
        return EvaluationSettings(**{"data": "d", "out": Path("o"), **more}).identity()

    assert identity(out=Path("p"), limit=3, concurrency=1, gallery=0, retry_failed=True) == identity()
    assert identity(temperature=0.5) != identity()
    assert identity(evaluator=["structural"]) != identity()
    (tmp_path / "weights").write_text("1")
    before = identity(model=str(tmp_path))
    (tmp_path / "weights").write_text("22")
    assert identity(model=str(tmp_path)) != before
    with pytest.raises(ConfigError, match="environment variable instead of api_key"):
        identity(backend_config={"api_key": "sk-1"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer sk-secret"},
        {"x-api-key": "sk-secret"},
        {"Cookie": "a=sk-secret"},
        {"X-Auth-Token": "sk-secret"},
        {"client_secret": "sk-secret"},
        [["Authorization", "Bearer sk-secret"]],
        ["Authorization: Bearer sk-secret"],
    ],
)
def test_headers_with_keys_are_refused_before_they_are_stored(headers: object) -> None:
    for fields in (
        {"backend_config": {"extra_body": {"h": headers}}},
        {"evaluator": [{"evaluator": "x", "h": headers}]},
    ):
        with pytest.raises(ConfigError, match="environment variable instead of ") as caught:
            EvaluationSettings(**{"data": "d", "out": Path("o"), **fields}).identity()
        assert "sk-secret" not in str(caught.value)


def test_secrets_of_addresses_are_not_stored_and_do_not_make_another_run() -> None:
    def identity(password: str) -> dict[str, Any]:
        url = f"http://me:{password}@h/v1?key={password}"
        fields = {"base_url": url, "evaluator": [{"evaluator": "http", "base_url": url}], "max_tokens": 9}
        return EvaluationSettings(**{"data": "d", "out": Path("o"), **fields}).identity()

    assert "pa55word" not in json.dumps(identity("pa55word"))
    assert identity("pa55word")["base_url"] == "http://***@h/v1?key=***"
    assert identity("pa55word") == identity("another")
    assert identity("pa55word")["max_tokens"] == 9
