"""`agentfly edit`: one image and one instruction in, one edited image out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agentfly.agents.agent import AgentSettings
from agentfly.agents.card import AgentCard
from agentfly.agents.image_editing import ImageEditingAgent
from agentfly.agents.llm_backends import AsyncVLLMConfig, ClientConfig, SamplingParams
from agentfly.agents.rollout import RolloutLimits
from agentfly.agents.steps import check_steps_path, steps, write_steps
from agentfly.agents.trajectory import Trajectory
from agentfly.errors import AgentFlyError
from agentfly.images import file_format
from agentfly.vision.remote.settings import read_address


@dataclass(frozen=True)
class EditRequest:
    """What `agentfly edit` was asked.

    Attributes:
        picture: path or URL.
        instruction: in words.
        model: checkpoint, or model name of the endpoint.
        base_url: endpoint; None runs vLLM in this process.
        template: chat template; None takes the checkpoint's own.
        max_turns: generations at most; None takes the policy's own limit.
        temperature: 0 is greedy.
        out: where the edited picture goes.
        engine: what works behind the tools, by name; None takes the embedded engines.
        strip: where the steps go, as a strip (.png) or an animation (.gif); None for nowhere.
        nodes: image servers as `HOST:PORT`; what they do not offer is done by `engine`.
    """

    picture: str
    instruction: str
    model: str
    base_url: str | None
    template: str | None
    max_turns: int | None
    temperature: float
    out: Path
    engine: str | None = None
    strip: Path | None = None
    nodes: tuple[str, ...] = ()


async def edit_picture(request: EditRequest, console: Console) -> Trajectory:
    """Edit a picture, show the steps, and write the result.

    Raises:
        AgentFlyError: the agent made no picture, or a file cannot be written; the message says why.
    """
    # A suffix that cannot be written must not show after minutes of work.
    file_format(request.out)
    if request.strip is not None:
        check_steps_path(request.strip)
    agent = make_agent(request)
    try:
        content = [{"type": "image", "image": request.picture}, {"type": "text", "text": f"\n{request.instruction}"}]
        result = await agent.run([{"role": "user", "content": content}], enable_streaming=True)
    finally:
        await agent.close()
    trajectory = result[0]
    if trajectory.final_image is not None:
        agent.save_image(trajectory.final_image, request.out)
    if request.strip is not None:
        console.print(f"[bold]{write_steps(steps(trajectory, agent.store), request.strip)}[/bold] shows the steps")
    if trajectory.final_image is None:
        reason = trajectory.error or (trajectory.stop_reason.value if trajectory.stop_reason else "unknown")
        raise AgentFlyError(f"the agent made no picture ({reason}); try other words or another model")
    console.print(f"[bold]{request.out}[/bold] in {len(trajectory.turns)} turns, {trajectory.seconds:.1f} s")
    return trajectory


def make_agent(request: EditRequest) -> ImageEditingAgent:
    """The agent for a request: an endpoint's model, or a checkpoint on vLLM in this process."""
    card = AgentCard.read(request.model)
    return ImageEditingAgent(
        request.model,
        template=request.template,
        backend="client" if request.base_url else "async_vllm",
        backend_config=ClientConfig(base_url=request.base_url) if request.base_url else AsyncVLLMConfig(),
        streaming="console",
        engines=request.engine,
        client_nodes=[read_address(node) for node in request.nodes] or None,
        settings=AgentSettings(
            system_prompt=card.system_prompt,
            limits=RolloutLimits(
                max_turns=request.max_turns or card.max_turns, max_tokens_per_turn=card.max_tokens_per_turn
            ),
            sampling=SamplingParams(temperature=request.temperature, max_tokens=card.max_tokens_per_turn),
        ),
    )
