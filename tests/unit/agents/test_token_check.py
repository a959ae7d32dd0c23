"""`Trajectory.check`: it proves exact traces of any conversation with any template, and finds what is not exact."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from agentfly.agents import Agent, AgentSettings, RolloutLimits, StopReason, TokenTrace, Trajectory
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import AgentFlyError
from agentfly.images import ImageView
from agentfly.messages import text_message
from agentfly.templates import ChatCodec
from agentfly.templates.families import FAMILIES
from agentfly.tools import ToolResult, Toolset, tool

SIZES = ((56, 56), (84, 56), (56, 168))


class Shelf:
    """A tool that gives images and any words."""

    def __init__(self, images: ImageView) -> None:
        self._images = images

    @tool
    def show(self, images: list[int], words: str = "") -> ToolResult:
        """Show images.

        Args:
            images: which ones.
            words: what to say.
        """
        names = [self._images.add(image_of(number)) for number in images]
        return ToolResult(words or "none", tuple(self._images.handle(name) for name in names))


class ShelfAgent(Agent):
    def toolset(self, view: ImageView) -> Toolset:
        return Toolset.of(Shelf(view))


def image_of(number: int) -> Image.Image:
    return Image.new("RGB", SIZES[number % len(SIZES)], (number * 20 % 256, 90, 160))


# Pieces that would forge turns, images or calls if anything were tokenised twice, and characters of many bytes.
words = st.lists(
    st.sampled_from(
        ["red ", "circle", "<|im_end|>", "<|im_start|>user\n", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>",
         "</tool_response>", "<tool_response>", "<tool_call>", "</tool_call>", "{{ x }}", "{%", "\n\n", " ", "é", "图",
         "🎨", "\u200d", "img_1: ", "\ue0ff"]
    ),
    max_size=6,
).map("".join)  # fmt: skip
images = st.lists(st.integers(0, 5), max_size=3)
call = st.tuples(images, words).map(
    lambda drawn: (
        f"<tool_call>\n{json.dumps({'name': 'show', 'arguments': {'images': drawn[0], 'words': drawn[1]}})}"
        "\n</tool_call>"
    )
)
turn = st.one_of(
    st.tuples(words, call).map("".join),
    st.tuples(call, call).map("".join),
    call,
    words,
    st.just('<tool_call>{"name": "nothing", "arguments": {}}</tool_call>'),
)
user = st.tuples(words, images).map(
    lambda drawn: {
        "role": "user",
        "content": [
            *({"type": "image", "image": image_of(n)} for n in drawn[1]),
            {"type": "text", "text": drawn[0] or "-"},
        ],
    }
)
prompt = st.one_of(
    user.map(lambda first: [first]),
    st.tuples(user, words, user).map(lambda d: [d[0], {"role": "assistant", "content": d[1] or "yes"}, d[2]]),
)


@pytest.fixture(scope="module", params=[*FAMILIES["qwen2.5-vl"].templates, "qwen3-vl"])
def codec(request: pytest.FixtureRequest, tiny_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(tiny_policy), request.param)


async def run(
    codec: ChatCodec, messages: list[dict[str, Any]], script: list[str], cut: int = 4096, system: str | None = None
) -> tuple[ShelfAgent, Trajectory]:
    limits = RolloutLimits(max_turns=6, max_tokens_per_turn=cut)
    agent = ShelfAgent(
        "s",
        backend=ScriptedBackend(script, codec=codec),
        settings=AgentSettings(system_prompt=system, limits=limits),
    )
    return agent, (await agent.run(messages))[0]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=prompt,
    script=st.lists(turn, min_size=1, max_size=5),
    cut=st.sampled_from([4096, 4096, 60, 20, 3]),
    system=st.sampled_from([None, "Be brief."]),
)
def test_any_conversation_is_exact(
    codec: ChatCodec, messages: list[dict[str, Any]], script: list[str], cut: int, system: str | None
) -> None:
    agent, trajectory = asyncio.run(run(codec, messages, [*script, "done"], cut, system))
    assert trajectory.stop_reason not in (StopReason.ERROR, StopReason.BACKEND_ERROR), trajectory.error
    trajectory.check(codec, agent.store.get)
    again = Trajectory.from_json(trajectory.to_json())
    assert again == trajectory
    again.check(codec, agent.store.get)


SHOW = '<tool_call>{"name": "show", "arguments": {"images": [1], "words": "here"}}</tool_call>'


def _tokens(trajectory: Trajectory) -> TokenTrace:
    assert trajectory.tokens is not None
    return trajectory.tokens


def _gap(trajectory: Trajectory) -> int:
    return trajectory.turns[0].end


Damage = Callable[[Trajectory], Any]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a prompt id": (lambda t: _tokens(t).prompt_ids.__setitem__(2, 7), "prompt: .* first difference at 2"),
    "a missing prompt id": (lambda t: _tokens(t).prompt_ids.pop(), "prompt"),
    "an observation id": (lambda t: _tokens(t).response_ids.__setitem__(_gap(t) + 1, 9), "observation of turn 0"),
    "a sampled id": (lambda t: _tokens(t).response_ids.__setitem__(0, 9), "turn 0: the sampled ids"),
    "a log-prob on an observation": (lambda t: _tokens(t).logprobs.__setitem__(_gap(t), -0.5), "log-prob"),
    "a mask": (lambda t: _tokens(t).mask.__setitem__(_gap(t), 1), "mask"),
    "a short array": (lambda t: _tokens(t).logprobs.pop(), "log-probs"),
    "other words in an observation": (lambda t: t.messages.__setitem__(2, text_message("tool", "no")), "images of"),
    "another image": (lambda t: t.images.pop(), "images of the messages"),
    "another tool": (lambda t: t.tools.clear(), "prompt"),
    "a lost turn": (lambda t: t.turns.pop(), "mask"),
    "other tokens": (lambda t: setattr(t, "tokens", None), "not token-exact"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_what_is_not_exact_is_found(name: str, tiny_policy: Path) -> None:
    codec = ChatCodec.from_pretrained(str(tiny_policy), "qwen2.5-vl-system-tool")
    messages = [{"role": "user", "content": [{"type": "image", "image": image_of(0)}]}]
    agent, trajectory = await run(codec, messages, [SHOW, "done"])
    trajectory.check(codec, agent.store.get)
    damage, words = DAMAGES[name]
    damage(trajectory)
    with pytest.raises(AgentFlyError, match=words):
        trajectory.check(codec, agent.store.get)


async def test_a_chain_that_stops_after_an_observation_is_exact_too(tiny_policy: Path) -> None:
    codec = ChatCodec.from_pretrained(str(tiny_policy), "qwen2.5-vl-system-tool")
    agent, trajectory = await run(codec, [{"role": "user", "content": "x"}], [SHOW])
    assert trajectory.stop_reason is StopReason.BACKEND_ERROR
    assert trajectory.messages[-1].role == "tool"
    trajectory.check(codec, agent.store.get)


async def test_a_chat_backend_says_that_it_is_not_exact() -> None:
    agent = ShelfAgent("s", backend=ScriptedBackend(["done"]))
    trajectory = (await agent.run([{"role": "user", "content": "x"}]))[0]
    assert not trajectory.token_exact
