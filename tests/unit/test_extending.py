"""docs/extending.md, row by row: each test adds the smallest real thing of its kind, in the way that the row says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import APIRouter, Request
from fastapi.responses import Response
from jinja2 import ChoiceLoader, DictLoader
from PIL import Image, ImageOps, ImageStat
from starlette.testclient import TestClient
from typer.testing import CliRunner

from agentfly.agents import Chain, ImageEditingAgent, StopReason, Trajectory, reward
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import Generation, GenerationRequest, OnDelta, ScriptedBackend
from agentfly.agents.reward_function import import_reward
from agentfly.agents.spec import AgentSpec
from agentfly.agents.trajectory_file import TrajectoryLine, append_line
from agentfly.cli import app
from agentfly.datasets import EditTask, load_tasks
from agentfly.datasets.public import columns
from agentfly.datasets.public.tasks import HubOptions, public_rows
from agentfly.errors import ConfigError, ToolError
from agentfly.evaluation.calibration import attacks
from agentfly.evaluation.calibration.graded import built_in_material
from agentfly.evaluation.protocols import base as protocol_parts
from agentfly.evaluation.protocols import registry as protocol_registry
from agentfly.evaluation.protocols.judged import ProtocolJudge
from agentfly.evaluators import EditSample, RewardConfig, Score, compose_reward, make_evaluator
from agentfly.evaluators import factory as evaluator_factory
from agentfly.evaluators.learned import LearnedEvaluator, LearnedSettings, RewardModel
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ImagePart, Message, TextPart, text_message
from agentfly.settings import Settings
from agentfly.templates import ChatCodec, load_template, register_template
from agentfly.templates import loader as template_loader
from agentfly.tools import groups, tool
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.verl.scoring import ChainScorer
from agentfly.viewer import server
from agentfly.viewer.opened import Viewer
from agentfly.viewer.pages.context import context_of
from agentfly.viewer.runs import find_run
from agentfly.viewer.web import page_response, templates
from agentfly.vision import Engines, make_engines
from agentfly.vision import factory as engine_factory
from agentfly.vision.base import EditParams
from agentfly.vision.remote import NodeConfig
from agentfly.vision.remote import adapters as server_adapters
from tests.unit.evaluators import scripted_judge

ROOT = Path(__file__).resolve().parents[2]
CALL = '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'
EDIT = CALL.format("qwen_edit_image", '{"image_id": "img_1", "prompt": "a negative"}')
ANSWER = CALL.format("give_answer", '{"final_image_id": "img_2"}')


def image() -> Image.Image:
    return Image.linear_gradient("L").resize((56, 56)).convert("RGB")


def conversation(**metadata: Any) -> dict[str, Any]:
    content = [{"type": "image", "image": image()}, {"type": "text", "text": "Change it."}]
    return {"messages": [{"role": "user", "content": content}], **metadata}


def add_row(monkeypatch: pytest.MonkeyPatch, registry: Mapping[str, Any], **rows: Any) -> None:
    """Add rows to a registry in every module that has it, as if they stood in its file."""
    changed = {**registry, **rows}
    for name, module in list(sys.modules.items()):
        if name.startswith("agentfly"):
            for attribute, value in list(vars(module).items()):
                if value is registry:
                    monkeypatch.setattr(module, attribute, changed)


def test_every_row_is_tried_here() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `(test_\w+)` \|$", page, re.MULTILINE)
    rows = page.partition("| to add |")[2].partition("\n\n")[0].count("\n") - 1
    assert len(named) == rows
    assert {name for name in globals() if name.startswith(("test_a_", "test_an_"))} == set(named)


async def test_a_tool() -> None:
    @tool
    def count_words(text: str, at_most: int = 9) -> str:
        """Count the words of a text.

        Args:
            text: to count in.
            at_most: where to stop.
        """
        if not text:
            raise ToolError("the text is empty: give one")
        return str(min(at_most, len(text.split())))

    calls = [CALL.format("count_words", arguments) for arguments in ('{"text": "a b c"}', '{"text": ""}')]
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend([*calls, "Done."]), tools=[count_words])
    (trajectory,) = await agent.run(conversation())
    assert [record.error for record in trajectory.tool_records] == [None, "the text is empty: give one"]
    assert next(message.text for message in trajectory.messages if message.role == "tool") == "3"
    schema = next(each for each in trajectory.tools if each["function"]["name"] == "count_words")
    assert schema["function"]["parameters"]["properties"]["text"]["description"] == "to count in."


class Stamps:
    """A group of tools."""

    def __init__(self, images: ImageView) -> None:
        self._images = images

    @tool
    def list_images(self) -> str:
        """List the ids of all images."""
        return ", ".join(self._images)


async def test_a_group_of_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [CALL.format("list_images", "{}"), "Done."]

    async def observation(*tools: str) -> str:
        agent = ImageEditingAgent("scripted", backend=ScriptedBackend(calls), tools=tools)
        (trajectory,) = await agent.run(conversation())
        return next(message.text for message in trajectory.messages if message.role == "tool")

    assert await observation(f"{__name__}:Stamps") == "img_1"
    add_row(monkeypatch, groups.GROUPS, stamps=f"{__name__}:Stamps")
    assert await observation("own", "stamps") == "img_1"


class Modest(ImageEditingAgent):
    """An agent that stops at its first edit."""

    def stop(self, chain: Chain) -> bool:
        return chain.trajectory.final_image is not None


async def test_an_agent() -> None:
    spec = AgentSpec(agent=f"{__name__}:Modest", tools=("qwen_edit_image",))
    edit = CALL.format("qwen_edit_image", '{"image_id": "img_1", "prompt": "darker"}')
    agent = make_agent(spec, "scripted", backend=ScriptedBackend([edit, ANSWER]))
    (trajectory,) = await agent.run(conversation())
    assert trajectory.stop_reason is StopReason.STOPPED
    assert [schema["function"]["name"] for schema in trajectory.tools] == ["qwen_edit_image", "give_answer"]


class Negative:
    """An editor."""

    name = "negative"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        if "negative" not in instruction:
            raise ToolError("this engine makes negatives: ask for one")
        return ImageOps.invert(image)


class NegativeSettings(Settings):
    strength: float = 1.0


async def test_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = make_engines("classical")
    engines = Engines(embedded.detector, embedded.inpainter, Negative())
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend([EDIT, ANSWER]), engines=engines)
    (trajectory,) = await agent.run(conversation())
    assert trajectory.final_image is not None
    assert agent.store.get(trajectory.final_image).tobytes() == ImageOps.invert(image()).tobytes()
    assert trajectory.tool_records[0].engine == "negative"

    module = ModuleType("agentfly.vision.negative")
    vars(module).update(Negative=Negative, NegativeSettings=NegativeSettings)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    maker = engine_factory._Maker("negative", "Negative", "NegativeSettings")
    add_row(monkeypatch, engine_factory._EDITORS, negative=maker)
    made = make_engines({"editor": {"engine": "negative", "strength": 0.5}}).editor
    assert isinstance(made, Negative)
    assert made.settings == NegativeSettings(strength=0.5)


def brightness(of: Image.Image) -> float:
    return ImageStat.Stat(of.convert("L")).mean[0]


class Brightness:
    """An evaluator."""

    def __init__(self, wanted: float = 255.0) -> None:
        self._wanted = wanted

    async def evaluate(self, sample: EditSample) -> Score:
        if sample.result is None:
            return Score(0.0, "There is no result.")
        return Score(100.0 * brightness(sample.result) / self._wanted)


async def test_an_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    add_row(monkeypatch, evaluator_factory._MAKERS, brightness=lambda options: Brightness(**options))
    white = EditSample("Brighten it.", image(), Image.new("RGB", (8, 8), "white"))
    for spec in (f"{__name__}:Brightness", "brightness", {"evaluator": "brightness", "wanted": 510.0}):
        score = await make_evaluator(spec).evaluate(white)
        assert score.value == (100.0 if isinstance(spec, str) else 50.0)
        assert (await make_evaluator(spec).evaluate(replace(white, result=None))).value == 0.0


class LearnedBrightness(RewardModel):
    def load(self, device: str) -> Any:
        torch = pytest.importorskip("torch")
        return torch.nn.Identity().to(device)

    def score(self, model: Any, samples: Any) -> list[Score]:
        return [Score(100 * ImageStat.Stat(sample.result.convert("L")).mean[0] / 255) for sample in samples]


def make_learned() -> LearnedEvaluator:
    return LearnedEvaluator(LearnedBrightness(LearnedSettings(model="brightness", device="cpu")))


async def test_a_learned_reward() -> None:
    white = EditSample("Brighten it.", image(), Image.new("RGB", (8, 8), "white"))
    made = make_evaluator(f"{__name__}:make_learned")
    assert (await made.evaluate(white)).value == 100.0
    assert isinstance(made, LearnedEvaluator)
    await made.close()


def test_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "ATTACKS", dict(attacks.ATTACKS))

    @attacks.attack("negative")
    def negative(subject: attacks.Subject) -> Image.Image:
        return ImageOps.invert(subject.source)

    items = built_in_material(1, 0, attacks.ATTACKS).items
    assert "negative" in {item.name for item in items if item.kind == "attack"}


ESTIMATOR = """
from verl.trainer.ppo.core_algos import register_adv_est


@register_adv_est("reward_as_it_is")
def reward_as_it_is(token_level_rewards, response_mask, **unused):
    returns = token_level_rewards.sum(-1, keepdim=True) * response_mask
    return returns, returns
"""


@pytest.mark.slow
def test_an_algorithm(tmp_path: Path) -> None:
    pytest.importorskip("verl")
    (tmp_path / "my_algorithm.py").write_text(ESTIMATOR, encoding="utf-8")
    given = [
        f"agentfly.out={tmp_path / 'run'}",
        "agentfly.data.train=stickers",
        "agentfly.data.limit=4",
        "data.train_batch_size=4",
        "algorithm.adv_estimator=reward_as_it_is",
        f"agentfly.environment={{PYTHONPATH: '{ROOT}:{tmp_path}', VERL_USE_EXTERNAL_MODULES: my_algorithm}}",
    ]
    command = [sys.executable, "-m", "agentfly.cli", "train", "recipes/laptop.yaml", *given, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "reward_as_it_is with the vanilla loss" in done.stdout


TEMPLATE = """
{%- for message in messages -%}
{{- '<|im_start|>' + ('assistant' if message.role == 'assistant' else 'user') + '\\n' -}}
{%- for part in ([{'type': 'text', 'text': message.content}] if message.content is string else message.content) -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def test_a_model_family(tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_loader, "_registered", {})
    register_template("bare", TEMPLATE)
    (tmp_path / "bare.jinja").write_text(TEMPLATE, encoding="utf-8")
    assert load_template("bare") == load_template(str(tmp_path / "bare.jinja"))
    codec = ChatCodec.from_pretrained(str(tiny_policy), "bare")
    opening = Message("user", (ImagePart("img_a"), TextPart("Change it.")))
    observed = Message("tool", (ImagePart("img_b"),))
    images = {"img_a": image(), "img_b": image().rotate(90)}
    prompt = codec.prompt_ids([opening], (), images.__getitem__)
    sampled = codec.tokenizer("Done")["input_ids"]
    following = codec.continuation_ids([observed], (), images.__getitem__, ended_by=None)
    # Images stay in tool turns, and turn by turn gives the ids of the whole conversation.
    assert len(codec.image_runs(following)) == 1
    whole = [opening, text_message("assistant", "Done"), observed]
    assert [*prompt, *sampled, *following] == codec.prompt_ids(whole, (), images.__getitem__)


@reward
def brighter(final_image: Image.Image | None, wanted: float) -> dict[str, float]:
    """A reward with a part of its own."""
    share = 0.0 if final_image is None else brightness(final_image) / 255
    return {"reward": share - 0.1, "share": share, "wanted": wanted}


async def test_a_reward_term() -> None:
    embedded = make_engines("classical")
    engines = Engines(embedded.detector, embedded.inpainter, Negative())
    backend = ScriptedBackend([EDIT, ANSWER])
    agent = ImageEditingAgent("scripted", backend=backend, engines=engines, reward=brighter)
    (trajectory,) = await agent.run(conversation(wanted=1.0))
    assert trajectory.reward_parts == {"share": pytest.approx(0.5, abs=0.01), "wanted": 1.0}
    assert agent.rewards == [trajectory.reward_parts["share"] - 0.1]

    counts: dict[str, Any] = dict.fromkeys(("malformed_calls", "failed_calls", "tool_calls", "overlong_turns"), 3)
    nothing = RewardConfig(**dict.fromkeys(RewardConfig.model_fields, 0))
    free = compose_reward(Score(80.0), answered=True, config=nothing, **counts)
    assert free.value == sum(free.parts.values()) == 0.8
    costly = compose_reward(
        Score(80.0), answered=True, config=nothing.model_copy(update={"overlong_cost": 0.1}), **counts
    )
    assert {name for name, part in costly.parts.items() if part != free.parts[name]} == {"overlong"}
    assert costly.value == pytest.approx(0.5)


def test_a_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])

    given: list[str] = []

    def negative(source: str) -> None:
        """Make a negative."""
        given.append(source)

    app.command()(negative)
    assert "Make a negative." in CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, ["negative", "cat.jpg"]).exit_code == 0
    assert given == ["cat.jpg"]


def test_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    image().save(tmp_path / "room.png")
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Remove the lamp.", "image": "room.png"}\n', encoding="utf-8")
    (task,) = load_tasks(tmp_path / "mine.jsonl", columns={"instruction": "prompt"})
    assert task.instruction == "Remove the lamp."

    cell = {"bytes": (tmp_path / "room.png").read_bytes(), "path": None}
    row = {"key": "7", "before": cell, "wish": "Add a lamp."}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list([row]).to_parquet(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    mine = columns.Adapter("me/mine", ("train",), id=("key",), images=("before",), instruction="wish")
    add_row(monkeypatch, columns.ADAPTERS, mine=mine)
    (found,) = public_rows("mine", None, tmp_path, HubOptions())
    assert found.task().instruction == "Add a lamp."


async def test_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = protocol_parts.JudgedProtocol(
        name="mine",
        title="My benchmark",
        repository="me/mine",
        commit="1",
        data="gedit-bench",
        splits={"all": protocol_parts.Split(prompts=(protocol_parts.PromptFile("prompts.json", ("rate",)),))},
        measures=lambda rows: iter([protocol_parts.over_tasks(rows, "mean", protocol_parts.aspect("good", 5.0))]),
        decimals=1,
        note="From 0 to 5.",
        judge={"model": "m"},
        asks=lambda sample, result, prompts: [protocol_parts.Ask((prompts["rate"], result), lambda t: {"n": float(t)})],
        score=lambda ratings, metadata: (20.0 * ratings["n"], {"good": ratings["n"] / 5.0}),
        lowest=lambda metadata: {"n": 0.0},
        encoding=lambda metadata: protocol_parts.Encoding("jpeg"),
    )
    add_row(monkeypatch, protocol_registry.PROTOCOLS, mine=mine)
    (tmp_path / "prompts.json").write_text('{"rate": "From 0 to 5?"}')
    with scripted_judge.judge(scripted_judge.Reply("4")) as server:
        tested = ProtocolJudge("mine", root=str(tmp_path), judge={"base_url": server.base_url})
        found = await tested.evaluate(EditSample("Change it.", image(), image()))
    assert (found.value, found.aspects) == (80.0, {"good": 0.8})


def test_a_server_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = server_adapters.Adapter(
        "mine", "my-company", frozenset(("edit", "inpaint")), {"seed": "random_seed"}, mask_style="transparent"
    )
    add_row(monkeypatch, server_adapters.ADAPTERS, mine=mine)
    assert NodeConfig("http://localhost:8000", adapter="mine").adapter == "mine"
    assert server_adapters.adapter_of({"data": [{"owned_by": "my-company"}]}) is mine
    call = server_adapters.Call(
        "inpaint", "a cat", b"png", (4, 4), Image.new("L", (4, 4)), {"seed": 3, "true_cfg_scale": 4.0}
    )
    form = mine.form(call, None, 10.0)
    assert form.path == "/v1/images/edits"
    assert form.data == {"prompt": "a cat", "random_seed": "3"}
    assert [name for name, _ in form.files] == ["image", "mask"]


PAGE = """{% extends "layout.html.jinja" %}
{% block content %}<p>{{ words }}</p>{% endblock %}
"""


def test_a_viewer_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()

    @router.get("/runs/{slug}/mine")
    def show(request: Request, slug: str) -> Response:
        page = context_of(request, slug).page("mine", "Mine", words="<script>alert(1)</script>")
        return page_response(page, "mine.html.jinja")

    monkeypatch.setattr(server, "ROUTERS", (*server.ROUTERS, router))
    loader = templates().loader
    assert loader is not None
    monkeypatch.setattr(templates(), "loader", ChoiceLoader([DictLoader({"mine.html.jinja": PAGE}), loader]))
    append_line(tmp_path / "trajectories.jsonl", TrajectoryLine(Trajectory("t-0", "t", [])))
    with TestClient(server.create_app(Viewer([find_run(tmp_path, "run")]))) as client:
        html = client.get("/runs/run/mine").text
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    assert "style.css" in html  # the shared style sheet


@reward
def near(final_image: Image.Image | None, wanted: float) -> float:
    """Reward a result that is nearly as bright as a task wants."""
    return 0.0 if final_image is None else 1.0 - abs(brightness(final_image) - wanted) / 255.0


async def test_a_reward_in_training(tmp_path: Path) -> None:
    given = {"model": "m", "out": tmp_path, "data": {"train": "t"}, "reward": f"{__name__}:near"}
    store = ImageStore()
    task = EditTask("t", "Brighten it.", (image(),), metadata={"wanted": 255.0})
    white = Trajectory("t-0", "t", [], stop_reason=StopReason.ANSWERED)
    white.final_image = store.put(Image.new("RGB", (8, 8), "white"))
    scored = await ChainScorer(TrainSettings(**given)).score(white, task, store)
    assert scored.reward == 1.0
    function = import_reward(f"{__name__}:near")
    function.check_fields(task.metadata)
    with pytest.raises(ConfigError, match="wanted"):
        function.check_fields(["brightness"])


def test_a_project(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["new", str(tmp_path / "my_idea")]).exit_code == 0
    recipe = (tmp_path / "my_idea" / "recipe.yaml").read_text(encoding="utf-8")
    written = {str(path.relative_to(tmp_path / "my_idea")) for path in (tmp_path / "my_idea").rglob("*.py")}
    for key in ("agent", "tools", "reward"):
        (module,) = re.findall(rf"^  {key}: .*?(my_idea\.\w+):", recipe, re.MULTILINE)
        assert f"{module.replace('.', '/')}.py" in written


class Echo:
    """A backend that repeats the last words it was given."""

    codec: ChatCodec | None = None

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        return Generation(f"You said: {request.messages[-1].text}")

    async def close(self) -> None:
        """It holds nothing."""


async def test_a_backend() -> None:
    agent = ImageEditingAgent("echo", backend=Echo())
    (trajectory,) = await agent.run(conversation())
    assert [turn.text for turn in trajectory.turns] == ["You said: img_1: Change it."]
