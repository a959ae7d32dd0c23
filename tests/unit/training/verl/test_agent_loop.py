"""verl's agent loop: our rollout on verl's server, with exact tokens and images in verl's shape, not yet scored."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentfly.agents import RolloutLimits, StopReason
from agentfly.datasets import EditTask
from agentfly.errors import ConfigError, ToolOutage
from agentfly.templates import ChatCodec
from agentfly.training.recipe.settings import DataSettings, LimitSettings, TrainSettings
from agentfly.training.recipe.verl_dataset import write_rows

pytest.importorskip("verl")
from omegaconf import OmegaConf

from agentfly.training.verl import agent_loop
from agentfly.training.verl.agent_loop import AgentFlyAgentLoop, LoopContext, loop_context, output_of
from agentfly.training.verl.chain_faults import ChainFault, lost_chain
from agentfly.training.verl.messages import VALIDATE, ChainRequest, FinishedChain
from agentfly.training.verl.run_agent import new_chain
from tests.unit.tools.mcp.foreign import PROGRAM
from tests.unit.training.chains import ANSWER, ANSWER_SOURCE, good_edit, roll, task_of

pytestmark = pytest.mark.slow


class Server:
    """Plays verl's rollout server with a list of texts."""

    def __init__(self, codec: ChatCodec, texts: list[str]) -> None:
        self._codec, self._texts = codec, list(texts)
        self.requests: list[dict[str, Any]] = []

    async def generate(self, **request: Any) -> Any:
        self.requests.append(request)
        end = self._codec.tokenizer.convert_tokens_to_ids("<|im_end|>")
        ids = [*self._codec.tokenizer(self._texts.pop(0))["input_ids"], end]
        fields = {"min_global_steps": 3, "max_global_steps": 2 + len(self.requests)}
        ids = ids[: request["sampling_params"]["max_tokens"]]
        return SimpleNamespace(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields=fields)


@pytest.fixture(autouse=True)
def _no_context_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_loop, "_context", None)


def settings(model: str, out: Path, **values: Any) -> TrainSettings:
    limits = LimitSettings(**{"max_tokens_per_turn": 60, **values.pop("limits", {})})
    data = DataSettings(train="stickers")
    return TrainSettings(model=model, out=out, data=data, limits=limits, system_prompt="", **values)


def common(codec: ChatCodec, out: Path, response_length: int = 192, **values: Any) -> LoopContext:
    made = settings(str(out), out, **values)
    limits = made.rollout_limits(64, response_length)
    return LoopContext.build(made, codec, limits)


def loop(context: LoopContext, server: Any) -> AgentFlyAgentLoop:
    made = AgentFlyAgentLoop.__new__(AgentFlyAgentLoop)  # verl's own constructor wants a whole trainer configuration
    config = OmegaConf.create({})
    made.config, made.processor, made.server_manager = config, context.codec.processor, server
    agent_loop._context = weakref.ref(config), context
    return made


@pytest.fixture(scope="module")
def task() -> EditTask:
    return task_of()


@pytest.fixture
def kwargs(tmp_path: Path, task: EditTask) -> dict[str, Any]:
    """Return the keyword arguments that verl makes of a row."""
    write_rows([task], tmp_path, "t")
    extra = {"index": 0, "task_file": str((tmp_path / "t.tasks.parquet").resolve())}
    return {"extra_info": extra, "uid": "u", "session_id": 1, "global_steps": 3}


async def test_a_chain_is_exact_and_not_scored(
    policy_codec: ChatCodec, tmp_path: Path, task: EditTask, kwargs: dict[str, Any]
) -> None:
    server = Server(policy_codec, [good_edit(task), ANSWER])
    output = await loop(common(policy_codec, tmp_path), server).run({"temperature": 1.0, "top_p": 0.9}, **kwargs)
    assert output.reward_score is None
    assert len(output.response_ids) == len(output.response_mask) == len(output.response_logprobs or [])
    whole = output.prompt_ids + output.response_ids
    # vLLM expands the placeholder of each image itself.
    sent = policy_codec.collapse(whole, output.chain.trajectory.images, output.chain.store.get)
    assert server.requests[1]["prompt_ids"] == sent[: len(server.requests[1]["prompt_ids"])]
    assert server.requests[0]["request_id"] == server.requests[1]["request_id"] == "u-1"
    assert server.requests[0]["sampling_params"]["top_p"] == 0.9
    assert output.extra_fields == {"min_global_steps": 3, "max_global_steps": 4}
    trajectory = output.chain.trajectory
    trajectory.check(policy_codec, output.chain.store.get)
    assert trajectory.stop_reason is StopReason.ANSWERED
    # The name that seeds are made from is the same in every run; verl's uid is not.
    assert trajectory.id == "step-3-row-0-1"
    request = output.chain.request
    assert (request.step, request.validate, request.row["index"]) == (3, False, 0)
    assert output.chain.task.id == task.id
    # verl stores every field of a sample; the chain stays in the worker.
    assert "chain" not in output.as_dict()
    images = output.multi_modal_data["images"]
    assert [image.size for image in images] == [(168, 168)] * 2
    assert policy_codec.image_runs(whole) == [9, 9]


async def test_a_chain_of_a_validation_is_named_after_it(
    policy_codec: ChatCodec, tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    server = Server(policy_codec, [ANSWER_SOURCE])
    output = await loop(common(policy_codec, tmp_path), server).run({}, **kwargs, **{VALIDATE: True})
    assert output.chain.request.validate
    assert output.chain.trajectory.id == "validation-3-row-0-1"


async def test_what_was_sampled_is_marked_for_the_loss(
    policy_codec: ChatCodec, tmp_path: Path, task: EditTask, kwargs: dict[str, Any]
) -> None:
    server = Server(policy_codec, [good_edit(task), ANSWER])
    output = await loop(common(policy_codec, tmp_path), server).run({}, **kwargs)
    for token, mask, logprob in zip(
        output.response_ids, output.response_mask, output.response_logprobs or [], strict=True
    ):
        assert logprob == (-0.5 if mask else 0.0)
        assert not (mask and token == policy_codec.image_id)
    fields = output.as_dict()
    assert "rm_scores" not in fields
    output.token_rewards = [0.0] * (len(output.response_ids) - 1) + [0.25]
    assert output.as_dict()["rm_scores"].tolist() == output.token_rewards


async def test_each_turn_has_a_seed_only_when_asked(
    policy_codec: ChatCodec, tmp_path: Path, task: EditTask, kwargs: dict[str, Any]
) -> None:
    async def seeds(seeded: bool, session: int = 1) -> list[Any]:
        server = Server(policy_codec, [good_edit(task), ANSWER])
        made = common(policy_codec, tmp_path, seeded=seeded)
        await loop(made, server).run({}, **{**kwargs, "session_id": session})
        return [request["sampling_params"].get("seed") for request in server.requests]

    first, again, other = await seeds(True), await seeds(True), await seeds(True, session=2)
    assert first == again
    assert len({*first, *other}) == 4
    assert await seeds(False) == [None, None]


async def test_a_placeholder_is_never_sampled(
    policy_codec: ChatCodec, tmp_path: Path, task: EditTask, kwargs: dict[str, Any]
) -> None:
    server = Server(policy_codec, [ANSWER_SOURCE])
    await loop(common(policy_codec, tmp_path), server).run({}, **kwargs)
    assert server.requests[0]["sampling_params"]["logit_bias"] == {policy_codec.image_id: -100.0}


@pytest.mark.parametrize("response_length", [1, 20, 40, 50, 60])
async def test_the_response_fits_in_verls_length_and_ends_with_what_was_sampled(
    response_length: int, policy_codec: ChatCodec, tmp_path: Path, task: EditTask, kwargs: dict[str, Any]
) -> None:
    server = Server(policy_codec, [good_edit(task), good_edit(task), ANSWER])
    output = await loop(common(policy_codec, tmp_path, response_length), server).run({}, **kwargs)
    assert 0 < len(output.response_ids) <= response_length
    # An observation that no turn follows is not kept: no image hangs over the end.
    assert output.response_mask[-1] == 1
    runs = policy_codec.image_runs(output.prompt_ids + output.response_ids)
    assert runs == [9] * len(output.multi_modal_data["images"])


async def test_a_dead_server_is_an_error_that_names_the_chain(
    policy_codec: ChatCodec, tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    class Dead:
        async def generate(self, **request: Any) -> Any:
            raise ConnectionError("gone")

    with pytest.raises(ChainFault, match=r"chain step-3-row-0-1 is not trained on: .*gone") as found:
        await loop(common(policy_codec, tmp_path), Dead()).run({}, **kwargs)
    assert found.value.reason == "bug"


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (StopReason.TOOL_OUTAGE, "tools"),
        (StopReason.BACKEND_ERROR, "backend"),
        (StopReason.ERROR, "bug"),
        (StopReason.CANCELLED, "cancelled"),
    ],
)
async def test_a_chain_that_was_stopped_from_outside_is_never_trained_on(
    policy_codec: ChatCodec, tmp_path: Path, task: EditTask, stop: StopReason, reason: str
) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER], policy_codec)
    trajectory.stop_reason, trajectory.error = stop, "out of order"
    request = ChainRequest({"index": 0, "task_file": ""}, "u", step=1)
    chain = FinishedChain(trajectory, store, task, request, settings("m", tmp_path))
    with pytest.raises(ChainFault, match=f"chain {trajectory.id} is not trained on: out of order") as found:
        output_of(chain, 192, {})
    assert found.value.reason == reason


def test_the_policy_gets_the_tools_that_were_chosen(policy_codec: ChatCodec, tmp_path: Path, task: EditTask) -> None:
    made = common(policy_codec, tmp_path, tools=["qwen_edit_image"])
    chain = new_chain(made, task, "g", 0)
    assert [tool.name for tool in chain.tools] == ["qwen_edit_image", "give_answer"]
    with pytest.raises(ConfigError, match="Did you mean 'qwen_edit_image'"):
        common(policy_codec, tmp_path, tools=["edit_image"])


async def test_chains_call_the_tools_of_a_foreign_server_that_their_process_started_once(
    policy_codec: ChatCodec, tmp_path: Path, task: EditTask, kwargs: dict[str, Any]
) -> None:
    server = {"mcp": [sys.executable, str(PROGRAM)], "include": ["swatch"], "start_timeout": 60}
    limits = {"max_tokens_per_turn": 400}
    context = common(policy_codec, tmp_path, 4000, limits=limits, tools=("qwen_edit_image", server))
    call = '<tool_call>{"name": "swatch", "arguments": {"colour": "blue", "side": 56}}</tool_call>'
    try:
        for session in range(2):
            played = Server(policy_codec, [call, ANSWER_SOURCE])
            output = await loop(context, played).run({}, **{**kwargs, "session_id": session})
            trajectory = output.chain.trajectory
            assert [tool["function"]["name"] for tool in trajectory.tools] == [
                "qwen_edit_image",
                "give_answer",
                "swatch",
            ]
            assert [record.error for record in trajectory.tool_records] == [None, None]
            assert output.chain.store.get(trajectory.names["view_1"]).getpixel((0, 0)) == (0, 0, 255)
            assert trajectory.final_image == trajectory.names["img_1"]
    finally:
        await context.agent.close()


async def test_a_chain_whose_foreign_server_does_not_start_is_lost_to_its_tools(
    policy_codec: ChatCodec, tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    context = common(policy_codec, tmp_path, tools=({"mcp": [sys.executable, str(PROGRAM), "quit"]},))
    with pytest.raises(ToolOutage) as told:
        await loop(context, Server(policy_codec, [])).run({}, **kwargs)
    assert lost_chain(told.value, "u", validate=False).reason == "tools"
    await context.agent.close()


def test_the_context_is_built_once_for_a_configuration(
    tiny_policy: Path, tmp_path: Path, policy_codec: ChatCodec
) -> None:
    node = {"model": str(tiny_policy), "out": str(tmp_path), "data": {"train": "stickers"}, "template": "compact-tool"}
    rollout = {"prompt_length": 100, "response_length": 60}
    config = OmegaConf.create({"agentfly": node, "actor_rollout_ref": {"rollout": rollout}})
    found = loop_context(config, policy_codec.processor)
    assert loop_context(config, policy_codec.processor) is found
    other = config.copy()
    assert loop_context(other, policy_codec.processor) is not found
    # The section is parsed once in a process all the same.
    assert loop_context(other, policy_codec.processor).settings is found.settings
    assert found.limits == RolloutLimits(
        max_turns=8,
        max_tokens_per_turn=1024,
        max_response_tokens=60,
        max_context_tokens=160,
        max_tool_calls=32,
        max_images=8,
        wall_clock=1800.0,
        tool_timeout=600.0,
    )
    assert found.agent.settings.system_prompt is not None


def test_a_prompt_that_is_drawn_again_in_a_step_has_a_name_of_its_own() -> None:
    names = [agent_loop._group_name("step-7", 3, uid) for uid in ("a", "a", "b", "a", "b")]
    assert names == ["step-7-row-3", "step-7-row-3", "step-7-row-3-again-1", "step-7-row-3", "step-7-row-3-again-1"]
    # Another run, or the same one resumed, gives the same name to the first.
    assert agent_loop._group_name("step-8", 3, "c") == "step-8-row-3"
