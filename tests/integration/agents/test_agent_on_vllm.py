"""`agent.run()` on a real engine: several turns, images in tool turns, exact tokens."""

from __future__ import annotations

import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RolloutLimits, StopReason
from agentfly.agents.llm_backends import AsyncVLLMBackend, SamplingParams

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

CALL = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "(brighten|darken|blur)"}}'


def only(pattern: str) -> SamplingParams:
    """Sampling in which an untrained policy can say nothing but what matches."""
    from vllm.sampling_params import StructuredOutputsParams

    escaped = pattern.replace("{", r"\{").replace("}", r"\}")
    return SamplingParams(seed=3, extra={"structured_outputs": StructuredOutputsParams(regex=escaped)})


async def test_turns_with_images_are_token_exact(backend: AsyncVLLMBackend, image: Image.Image) -> None:
    limits = RolloutLimits(max_turns=3, max_tokens_per_turn=150, max_context_tokens=1000)
    agent = ImageEditingAgent(
        "tiny",
        backend=backend,
        settings=AgentSettings(system_prompt=None, limits=limits, sampling=only(CALL + "</tool_call>")),
    )
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Change it."}]
    # A fixed id fixes the seeds of all chains and turns.
    result = await agent.run({"id": "fixed", "messages": [{"role": "user", "content": content}]}, num_chains=4)
    assert [trajectory.error for trajectory in result] == [None] * 4
    for trajectory in result:
        trajectory.check(backend.codec, agent.store.get)
        assert trajectory.stop_reason is StopReason.MAX_TURNS
        assert [record.error for record in trajectory.tool_records] == [None] * 3
        tokens = trajectory.tokens
        assert tokens is not None
        assert len(backend.codec.image_runs(tokens.ids)) >= 2
        # vLLM applies a grammar before it takes log-probs: where only one token is allowed, its log-prob is 0.
        sampled = [value for value, mask in zip(tokens.logprobs, tokens.mask, strict=True) if mask]
        assert max(sampled) <= 0.0
        assert min(sampled) < 0.0
    assert len({tuple(trajectory.tokens.response_ids) for trajectory in result if trajectory.tokens}) > 1


async def test_a_chain_that_cannot_fit_says_so(backend: AsyncVLLMBackend, image: Image.Image) -> None:
    limits = RolloutLimits(max_tokens_per_turn=150, max_response_tokens=160)
    agent = ImageEditingAgent(
        "tiny",
        backend=backend,
        settings=AgentSettings(system_prompt=None, limits=limits, sampling=only(CALL + "</tool_call>")),
    )
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Change it."}]
    result = await agent.run([{"role": "user", "content": content}])
    assert result[0].stop_reason is StopReason.CONTEXT_FULL
    result[0].check(backend.codec, agent.store.get)
