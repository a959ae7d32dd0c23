"""verl's own agent loops with the same tools and tokens as ours: what `benchmarks/training.py` compares with.

verl and Ray load these by name in their processes. Nothing of verl's loops is replaced; what is here is what verl lets
its users bring: tools, a tool parser, a reward function, a replay buffer, sampling parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall, HermesToolParser, ToolParser
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from agentfly.errors import ImageError, ToolError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ImageTools, Toolset
from agentfly.vision import Engines

POLL_SECONDS = 0.05
# Sampled, they would stand for an image that does not exist.
IMAGE_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|video_pad|>")


@cache
def engines() -> Engines:
    """The engines of this process, as our loop has them."""
    from agentfly.vision.factory import make_engines

    return make_engines("classical")


@dataclass
class Desk:
    """The images and tools of one chain."""

    view: ImageView = field(default_factory=lambda: ImageView(ImageStore()))
    known: int = 0

    def tools(self, images: list[Any]) -> Toolset:
        """Tools on all images of the conversation, named in their order."""
        for image in images[self.known :]:
            self.view.add_handle(self.view.store.put(image))
        self.known = len(images)
        return Toolset.of(ImageTools(self.view, engines()))


_desks: WeakKeyDictionary[Any, Desk] = WeakKeyDictionary()


class ImageTool(BaseTool):  # type: ignore[misc, unused-ignore]
    """One of our image tools behind verl's interface."""

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], *, agent_data: Any, **unused: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """Carry out a call; a refusal is an observation, as it is with us."""
        desk = _desks.setdefault(agent_data, Desk())
        try:
            result = await desk.tools(agent_data.image_data or []).execute(ToolCall("call", self.name, parameters))
        except (ToolError, ImageError) as fault:
            return ToolResponse(text=f"Error: {fault}"), 0.0, {}
        images = {"image": [desk.view.store.get(handle) for handle in result.images]} if result.images else {}
        return ToolResponse(text=result.text, **images), 0.0, {}


@ToolParser.register("hermes_until_answer")
class HermesUntilAnswer(HermesToolParser):  # type: ignore[misc, unused-ignore]
    """Calls as Qwen writes them; an answer is no call, so that verl's loop ends where ours does."""

    async def extract_tool_calls(self, responses_ids: Any, tools: Any = None) -> tuple[str, list[FunctionCall]]:
        """See `ToolParser`."""
        content, calls = await super().extract_tool_calls(responses_ids, tools)
        return content, [call for call in calls if call.name != "give_answer"]


class LongSingleTurn(SingleTurnAgentLoop):  # type: ignore[misc, unused-ignore]
    """verl's single turn, of exactly so many tokens.

    Args:
        tokens: how many.
    """

    def __init__(self, *arguments: Any, tokens: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        ids = [self.tokenizer.convert_tokens_to_ids(token) for token in IMAGE_TOKENS]
        self._fixed = {"max_tokens": tokens, "ignore_eos": True, "logit_bias": dict.fromkeys(ids, -100.0)}

    async def run(self, sampling_params: dict[str, Any], **named: Any) -> AgentLoopOutput:
        """See `AgentLoopBase`."""
        return await super().run({**sampling_params, **self._fixed}, **named)


class QuickReplayBuffer(ReplayBuffer):  # type: ignore[misc, unused-ignore]
    """verl's, that looks as often as ours: otherwise its poll of 2 s would be most of the difference."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{"poll_interval": POLL_SECONDS, **named})


def compute_score(**unused: Any) -> float:
    """A reward that costs nothing; ours is scored by comparing images."""
    return 0.5
